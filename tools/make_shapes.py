#!/usr/bin/env python
"""Write the generated data set of textured shapes.

python tools/make_shapes.py data/shapes
"""

from argparse import ArgumentParser

from mmacmix.cli import command_line, run
from mmacmix.datasets import write_shapes


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Write the generated data set of textured shapes.')
    parser.add_argument('folder', help='folder to write to')
    parser.add_argument('--train', type=int, default=2000, help='images to train on; default: 2000')
    parser.add_argument('--val', type=int, default=200, help='images to evaluate on; default: 200')
    parser.add_argument('--size', type=int, default=128, help='side of the images in pixels; default: 128')
    parser.add_argument('--seed', type=int, default=0, help='default: 0')
    args = parser.parse_args(argv)
    objects = write_shapes(args.folder, args.train, args.val, args.size, args.seed)
    for split, count in (('train', args.train), ('val', args.val)):
        print(f'{args.folder}: {count} images to {split} with {objects[split]} objects')


if __name__ == '__main__':
    run(main)
