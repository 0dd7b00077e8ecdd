#!/usr/bin/env python
"""Parameters and multiply-adds of a config's network, by part.

python tools/get_flops.py configs/maskrcnn_acmix.py --shape 800 1333
python tools/get_flops.py --table
"""

from argparse import ArgumentParser

import torch

from mmacmix.cli import add_config_arguments, command_line, load_config, positive_int, run
from mmacmix.errors import UserError
from mmacmix.inference import build_model
from mmacmix.reporting.complexity import Part, model_complexity
from mmacmix.reporting.sizes import BACKBONES, classifier_size


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Parameters and multiply-adds of a config's network, by part.")
    add_config_arguments(parser, optional=True)
    text = 'height and width of the image in pixels; default: 800 1333'
    parser.add_argument('--shape', nargs=2, type=positive_int, metavar=('H', 'W'), default=(800, 1333), help=text)
    text = 'sizes of all backbones as ImageNet classifiers, next to the published ones'
    parser.add_argument('--table', action='store_true', help=text)
    args = parser.parse_args(argv)
    if args.table == bool(args.config):
        parser.error('give a config, or --table')
    print_table() if args.table else print_parts(args)


def print_parts(args) -> None:
    cfg = load_config(args)
    model = build_model(cfg)
    model.eval()
    height, width = args.shape
    image = torch.zeros(1, 3, height, width)
    samples = _samples(height, width) if hasattr(model, 'roi_head') else None
    try:
        parts = model_complexity(model, lambda: model(image, samples, mode='tensor'))
    except Exception as error:
        raise UserError(f'{args.config} cannot run an image of {height} x {width} pixels: {error}') from error
    print(f'{args.config}, one image of {height} x {width} pixels')
    print(f'{"":14} {"parameters (M)":>15} {"multiply-adds (G)":>18}')
    for name, part in {**parts, 'all': sum(parts.values(), start=Part(0, 0))}.items():
        print(f'{name:14} {part.parameters / 1e6:15.3f} {part.macs / 1e9:18.3f}')


def _samples(height: int, width: int) -> list:
    """The image sizes that a two-stage detector needs."""
    from mmdet.structures import DetDataSample

    size = (height, width)
    return [DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0)))]


def print_table() -> None:
    print('ImageNet classifiers, 224 x 224 pixels; parameters in M, multiply-adds in G')
    print(f'{"":20} {"parameters":>11} {"published":>10} {"multiply-adds":>14} {"published":>10}')
    for name, (_, published) in BACKBONES.items():
        size = classifier_size(name)
        print(
            f'{name:20} {size.parameters / 1e6:11.3f} {published.parameters if published else "":>10} '
            f'{size.macs / 1e9:14.3f} {published.macs if published else "":>10}'
        )
    print('ACmix-SAN, ACmix-PVT and X-volution are reconstructions from the papers: their code was never published.')
    print('LESA is a reconstruction from its paper and the behaviour of its code.')


if __name__ == '__main__':
    run(main)
