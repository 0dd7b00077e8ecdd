#!/usr/bin/env python
"""Which layers attend, which convolve? Draw ACmix's rates, and the share of each path in any layer, by depth.

python tools/plot_path_weights.py work_dirs/maskrcnn_acmix/epoch_12.pth
python tools/plot_path_weights.py work_dirs/maskrcnn_acmix              # over training
"""

from argparse import ArgumentParser
from pathlib import Path

from mmacmix.checkpoints import load_checkpoint, state_dict_of
from mmacmix.cli import command_line, run
from mmacmix.errors import UserError
from mmacmix.reporting.charts import draw_path_weights, draw_path_weights_over_time
from mmacmix.reporting.path_weights import logged_path_weights, path_weights_of
from mmacmix.reporting.scalars import read_scalars


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Draw the rates of ACmix's two paths, and the paths' shares, by depth.")
    parser.add_argument('source', type=Path, help='a checkpoint, or a work directory for the rates over training')
    parser.add_argument('--out', type=Path, default='path_weights.png', help='PNG; default: path_weights.png')
    args = parser.parse_args(argv)
    if args.out.suffix != '.png':
        parser.error(f'--out takes a .png file, got {args.out}')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.source.is_dir():
        steps, layers = logged_path_weights(read_scalars(args.source).path_weights)
    else:
        layers = path_weights_of(state_dict_of(load_checkpoint(args.source), args.source))
    if not layers:
        raise UserError(f'{args.source} has no learned rates of an ACmix layer, and no logged shares of others')
    if args.source.is_dir():
        draw_path_weights_over_time(steps, layers, args.out)
    else:
        draw_path_weights(layers, args.out)
    print(f'The weights of {len(layers)} layers are drawn in {args.out}')


if __name__ == '__main__':
    run(main)
