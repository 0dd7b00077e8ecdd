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
    parser.add_argument('--train', type=int, default=2000, help='number of training images; default: 2000')
    parser.add_argument('--val', type=int, default=200, help='number of validation images; default: 200')
    parser.add_argument('--size', type=int, default=128, help='height and width of the images in pixels; default: 128')
    parser.add_argument('--seed', type=int, default=0, help='default: 0')
    parser.add_argument(
        '--format', choices=('coco', 'yolo'), default='coco', help='yolo: labels for Ultralytics, too; default: coco'
    )
    args = parser.parse_args(argv)
    objects = write_shapes(args.folder, args.train, args.val, args.size, args.seed, args.format == 'yolo')
    for split, count in (('train', args.train), ('val', args.val)):
        print(f'{args.folder}: {count} {split} images with {objects[split]} objects')


if __name__ == '__main__':
    run(main)
