#!/usr/bin/env python
"""Write COCO annotations for random splits of the Penn-Fudan pedestrians.

python tools/convert_pennfudan.py data/PennFudanPed
"""

from argparse import ArgumentParser

from mmacmix.cli import command_line, positive_int, run
from mmacmix.datasets import write_penn_fudan


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Write COCO annotations for random splits of the Penn-Fudan pedestrians.')
    parser.add_argument('folder', help='the published folder PennFudanPed')
    parser.add_argument('--splits', type=positive_int, default=3, help='number of splits; default: 3')
    parser.add_argument('--val', type=positive_int, default=50, help='photographs for validation; default: 50')
    args = parser.parse_args(argv)
    for name, (images, persons) in write_penn_fudan(args.folder, args.splits, args.val).items():
        print(f'{args.folder}/annotations/{name}.json: {images} photographs with {persons} persons')


if __name__ == '__main__':
    run(main)
