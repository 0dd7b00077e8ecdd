#!/usr/bin/env python
"""Translate a published checkpoint to the names of this package.

python tools/convert_checkpoint.py acmix-resnet published.pth converted.pth
python tools/convert_checkpoint.py resnet resnet50.pth converted.pth --images data/coco/val2017
"""

import io
from argparse import ArgumentParser
from pathlib import Path

import mmcv
import torch
from torch import Tensor

from mmacmix.backbones.warm_start import refined
from mmacmix.checkpoints import SOURCES, convert, load_checkpoint, state_dict_of
from mmacmix.checkpoints.resnet import kernel_errors
from mmacmix.cli import command_line, run
from mmacmix.engine import write_atomically
from mmacmix.errors import UserError

IMAGES, SIDE = 32, 224
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Translate a published checkpoint to the names of this package.')
    parser.add_argument('source', choices=SOURCES, help='whose checkpoint it is')
    parser.add_argument('input', metavar='in', help='the checkpoint')
    parser.add_argument('output', metavar='out', help='file to write')
    parser.add_argument(
        '--images',
        metavar='DIR',
        help=f"refine what 'resnet' gives on the first {IMAGES} images of a folder, normalised as for ImageNet",
    )
    args = parser.parse_args(argv)
    if args.images and args.source != 'resnet':
        parser.error('--images refines an approximation, which resnet is alone')
    output = Path(args.output)
    if not output.parent.is_dir():
        raise UserError(f'there is no folder {output.parent} to write {output.name} to')
    original = state_dict_of(load_checkpoint(args.input), args.input)
    converted = convert(original, args.source)
    if args.source == 'resnet':
        errors = {'kernel': kernel_errors(original, converted)}
        if args.images:
            converted, fits = refined(original, converted, _read_images(Path(args.images)))
            for index, title in enumerate(('output', 'output, refined')):
                errors[title] = {layer: fit[index] for layer, fit in fits.items()}
    content = io.BytesIO()
    torch.save(dict(state_dict=converted, meta=dict(source=args.source)), content)
    write_atomically(content.getbuffer(), output)
    numbers = sum(tensor.numel() for tensor in converted.values())
    print(f'{args.output}: {len(converted)} tensors from {len(original)} of {args.input}, {numbers:,} numbers')
    if any(name.removeprefix('module.').startswith(('head.', 'fc.')) for name in original):
        print('Left out: the classifier, which the backbone does not have.')
    if args.source in ('pvt', 'swin'):
        print("Added: ACmix's convolution path, at rate 0.")
    if args.source == 'resnet':
        _print_errors(errors)


def _print_errors(errors: dict[str, dict[str, float]]) -> None:
    print('Relative error of the 3x3 convolutions, which ACmix approximates:')
    print(f'{"":16}' + ''.join(f'{title:>16}' for title in errors))
    for layer in errors['kernel']:
        print(f'{layer:16}' + ''.join(f'{each[layer]:16.3f}' for each in errors.values()))


def _read_images(folder: Path) -> Tensor:
    """``(B, 3, 224, 224)``, the middle of each image, with the mean and deviation that ImageNet's networks expect."""
    suffixes = ('.jpg', '.jpeg', '.png')
    paths = sorted(path for path in folder.glob('*') if path.suffix.lower() in suffixes)[:IMAGES]
    if not paths:
        raise UserError(f'there is no image in {folder}: --images takes a folder of {", ".join(suffixes)} files')
    images = []
    for path in paths:
        image = mmcv.imread(path)
        if image is None:
            raise UserError(f'{path} cannot be read as an image')
        height, width = image.shape[:2]
        scale = SIDE / min(height, width)
        image = mmcv.imresize(image, (max(SIDE, round(width * scale)), max(SIDE, round(height * scale))))
        top, left = (image.shape[0] - SIDE) // 2, (image.shape[1] - SIDE) // 2
        images.append(torch.from_numpy(mmcv.bgr2rgb(image[top : top + SIDE, left : left + SIDE])))
    pixels = torch.stack(images).permute(0, 3, 1, 2).float()
    mean, deviation = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    return (pixels - mean) / deviation


if __name__ == '__main__':
    run(main)
