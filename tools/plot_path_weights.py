#!/usr/bin/env python
"""Draw by depth how much each layer uses attention and convolution: ACmix's rates, and the shares of the paths.

python tools/plot_path_weights.py work_dirs/maskrcnn_acmix/epoch_12.pth
python tools/plot_path_weights.py work_dirs/maskrcnn_acmix              # over training
"""

from argparse import ArgumentParser
from pathlib import Path

from mmacmix.checkpoints import load_checkpoint, state_dict_of
from mmacmix.cli import command_line, png_file, run
from mmacmix.errors import UserError
from mmacmix.reporting.charts import draw_path_weights, draw_path_weights_over_time
from mmacmix.reporting.path_weights import logged_path_weights, path_weights_of
from mmacmix.reporting.scalars import read_scalars


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Draw by depth how much each layer uses attention and convolution.')
    parser.add_argument('source', type=Path, help='checkpoint file, or work directory to draw the course of training')
    parser.add_argument('--out', type=png_file, default='path_weights.png', help='PNG file; default: path_weights.png')
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.source.is_dir():
        steps, layers = logged_path_weights(read_scalars(args.source).path_weights)
    else:
        layers = path_weights_of(state_dict_of(load_checkpoint(args.source), args.source))
    if not layers:
        raise UserError(f'{args.source} has neither learned rates of ACmix layers nor logged shares of other layers')
    if args.source.is_dir():
        draw_path_weights_over_time(steps, layers, args.out)
    else:
        draw_path_weights(layers, args.out)
    print(f'The weights of {len(layers)} layers are drawn in {args.out}')


if __name__ == '__main__':
    run(main)
