#!/usr/bin/env python
"""Convert a published checkpoint to the parameter names of this package, or one of this package to safetensors.

python tools/convert_checkpoint.py acmix-resnet published.pth converted.pth
python tools/convert_checkpoint.py resnet resnet50.pth converted.pth --images data/coco/val2017
python tools/convert_checkpoint.py mmacmix work_dirs/maskrcnn_acmix/epoch_12.pth weights.safetensors
"""

import io
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from torch import Tensor

from mmacmix.backbones import ACmixResNet
from mmacmix.backbones.norm_statistics import unfold_norms
from mmacmix.backbones.warm_start import refined
from mmacmix.checkpoints import SOURCES, convert, load_checkpoint, open_nsfw, state_dict_of
from mmacmix.checkpoints.resnet import kernel_errors
from mmacmix.checkpoints.safetensors_files import safetensors_bytes
from mmacmix.cli import command_line, run
from mmacmix.engine import write_atomically
from mmacmix.errors import UserError
from mmacmix.inference import read_image

OWN = 'mmacmix'
IMAGES, SIDE = 32, 224
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, RGB


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Convert a published checkpoint to the parameter names of this package.')
    parser.add_argument(
        'source',
        choices=[*SOURCES, OWN],
        help=f'kind of the published checkpoint; {OWN} keeps names and changes the format',
    )
    parser.add_argument('input', metavar='in', help='checkpoint file, of torch or safetensors, or ONNX of open-nsfw')
    parser.add_argument('output', metavar='out', type=Path, help='file to write; .safetensors selects this format')
    text = f'folder whose first {IMAGES} images refine the approximation of resnet, or give open-nsfw statistics'
    parser.add_argument('--images', type=Path, metavar='DIR', help=text)
    args = parser.parse_args(argv)
    if args.images and args.source not in ('resnet', 'open-nsfw'):
        parser.error(f'--images is for resnet and open-nsfw, got {args.source}')
    if args.source == 'open-nsfw' and not args.images:
        parser.error('open-nsfw needs --images: its normalisation is folded, and images give it statistics again')
    if not args.output.parent.is_dir():
        raise UserError(f'{args.output} cannot be written: there is no folder {args.output.parent}')
    checkpoint = load_checkpoint(args.input)
    original = state_dict_of(checkpoint, args.input)
    if args.source == OWN:
        converted, meta = original, checkpoint.get('meta') or {}
    else:
        converted, meta = convert(original, args.source), dict(source=args.source)
    if args.source == 'open-nsfw':
        network = ACmixResNet(**open_nsfw.ARGUMENTS, stage_with_acmix=(False,) * 4)
        network.load_state_dict(converted)
        unfold_norms(network, _read_images(args.images, open_nsfw.MEAN, open_nsfw.STD, rgb=False))
        converted = network.state_dict()
    if args.source == 'resnet':
        errors = {'kernel': kernel_errors(original, converted)}
        if args.images:
            if checkpoint.get('meta', {}).get('source') == 'open-nsfw':
                images, style = _read_images(args.images, open_nsfw.MEAN, open_nsfw.STD, rgb=False), 'caffe'
            else:
                images, style = _read_images(args.images, MEAN, STD), 'pytorch'
            converted, fits = refined(original, converted, images, style)
            for index, title in enumerate(('output', 'output, refined')):
                errors[title] = {layer: fit[index] for layer, fit in fits.items()}
    if args.output.suffix == '.safetensors':
        content = safetensors_bytes(converted, meta)
    else:
        file = io.BytesIO()
        torch.save(dict(state_dict=converted, meta=meta), file)
        content = file.getbuffer()
    write_atomically(content, args.output)
    elements = sum(tensor.numel() for tensor in converted.values())
    print(f'{args.output}: {len(converted)} tensors with {elements:,} elements, from {len(original)} of {args.input}')
    if args.source != OWN and any(name.removeprefix('module.').startswith(('head.', 'fc.')) for name in original):
        print('Left out: the classifier, because the backbone has none.')
    if args.source in ('pvt', 'swin'):
        print("Added: ACmix's convolution path, with rate 0.")
    if args.source == 'resnet':
        _print_errors(errors)


def _print_errors(errors: dict[str, dict[str, float]]) -> None:
    print('Relative errors of the 3x3 convolutions as approximated by ACmix:')
    print(f'{"":16}' + ''.join(f'{title:>16}' for title in errors))
    for layer in errors['kernel']:
        print(f'{layer:16}' + ''.join(f'{each[layer]:16.3f}' for each in errors.values()))


def _read_images(folder: Path, mean: Sequence[float], std: Sequence[float], rgb: bool = True) -> Tensor:
    """Normalised centre crops: ``(B, 3, 224, 224)``."""
    suffixes = ('.jpg', '.jpeg', '.png')
    paths = sorted(path for path in folder.glob('*') if path.suffix.lower() in suffixes)[:IMAGES]
    if not paths:
        raise UserError(f'there is no image in {folder}: --images takes a folder with {", ".join(suffixes)} files')
    images = []
    for path in paths:
        image = mmcv.imrescale(read_image(path), (SIDE, float('inf')))  # the shorter side is SIDE
        top, left = (image.shape[0] - SIDE) // 2, (image.shape[1] - SIDE) // 2
        crop = image[top : top + SIDE, left : left + SIDE]
        images.append(torch.from_numpy(mmcv.imnormalize(crop, np.array(mean), np.array(std), to_rgb=rgb)))
    return torch.stack(images).permute(0, 3, 1, 2)


if __name__ == '__main__':
    run(main)
