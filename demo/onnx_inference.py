#!/usr/bin/env python
"""Run a file of tools/export.py on an image, with numpy, onnxruntime and OpenCV alone, and draw what it finds.

python demo/onnx_inference.py mask-rcnn.onnx image.jpg --out drawn.png
"""

import json
from argparse import ArgumentParser

import cv2
import numpy as np
import onnxruntime


def main():
    parser = ArgumentParser(description='Run an exported detector or segmentor on an image.')
    parser.add_argument('model', help='ONNX file')
    parser.add_argument('image', help='image file')
    parser.add_argument('--out', default='drawn.png', help='default: drawn.png')
    parser.add_argument('--score-thr', type=float, default=0.3, help='draw objects from this score; default: 0.3')
    args = parser.parse_args()
    session = onnxruntime.InferenceSession(args.model, providers=onnxruntime.get_available_providers())
    about = json.loads(session.get_modelmeta().custom_metadata_map['mmacmix'])
    image = cv2.imread(args.image)  # (H, W, 3), BGR
    if image is None:
        parser.error(f'{args.image} cannot be read as an image')
    resized = resize(image, about, session.get_inputs()[0].shape[2:])
    outputs = session.run(None, {'image': resized.transpose(2, 0, 1)[None].astype(np.float32)})
    if about['part'] == 'segmentor':
        draw_classes(image, outputs[0][0], about)
    else:
        draw_objects(image, outputs, np.divide(image.shape[1::-1] * 2, resized.shape[1::-1] * 2), about, args.score_thr)
    cv2.imwrite(args.out, image)
    print(f'{args.out} written.')


def resize(image, about, fixed):
    """The image in the size that the file takes: its fixed one, or as the network was tested."""
    height, width = image.shape[:2]
    if all(isinstance(side, int) for side in fixed):
        return cv2.resize(image, fixed[::-1])
    if not about['keep_ratio']:
        return image if about['scale'] is None else cv2.resize(image, about['scale'])
    shorter, longer = sorted(about['scale'])
    factor = min(longer / max(height, width), shorter / min(height, width))
    return cv2.resize(image, (int(width * factor + 0.5), int(height * factor + 0.5)))


def draw_objects(image, outputs, scale, about, score_thr):
    """Draw boxes, masks and classes, the best last, and print them."""
    found = [each for each in zip(*outputs, strict=True) if each[1] >= score_thr]
    for box, score, label, *masks in reversed(found):
        box, color, name = box * scale, about['palette'][label][::-1], about['classes'][label]
        for mask in masks:
            inside = paste(mask, box, image.shape) >= 0.5
            image[inside] = 0.5 * image[inside] + 0.5 * np.array(color)
        left, top, right, bottom = map(round, box.tolist())
        cv2.rectangle(image, (left, top), (right, bottom), color, 2)
        cv2.putText(image, f'{name} {score:.2f}', (left, max(top, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1)
        print(name, f'{score:.3f}', *(f'{side:.1f}' for side in box))


def paste(mask, box, shape):
    """The probabilities in a box as a map of the image; pixel centres lie at half coordinates."""
    left, top, right, bottom = box
    x, y = mask.shape[1] / max(right - left, 1e-6), mask.shape[0] / max(bottom - top, 1e-6)
    to_mask = np.array([[x, 0, (0.5 - left) * x - 0.5], [0, y, (0.5 - top) * y - 0.5]])
    return cv2.warpAffine(mask, to_mask, shape[1::-1], flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR)


def draw_classes(image, logits, about):
    """Blend the image with the colours of its pixels' classes, and print their shares."""
    classes = cv2.resize(logits.argmax(0).astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    image[:] = 0.5 * image + 0.5 * np.array(about['palette'], float)[classes][..., ::-1]
    for label in np.unique(classes):
        print(about['classes'][label], f'{(classes == label).mean():.1%}')


if __name__ == '__main__':
    main()
