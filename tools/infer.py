#!/usr/bin/env python
"""Run a trained network on images, folders of images and videos.

python tools/infer.py configs/maskrcnn_acmix.py work_dirs/maskrcnn_acmix/epoch_12.pth photo.jpg photos/ --out-dir seen
python tools/infer.py configs/upernet_acmix.py work_dirs/upernet_acmix/iter_160000.pth 'street/*.png' drive.mp4

The output folder contains overlays/, images and videos with the predictions drawn on them. A detector also writes
predictions.json in COCO's format (images, categories, annotations with scores), a segmentor maps/, PNGs of classes.
"""

import openmp  # noqa: F401

from argparse import ArgumentParser
from pathlib import Path

from mmacmix.cli import add_config_arguments, command_line, load_config, run
from mmacmix.errors import UserError
from mmacmix.inference import Predictor, find_media, infer


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Run a trained network on images, folders of images and videos.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('inputs', nargs='+', metavar='input', help="image, video, folder, or pattern such as 'a/*.png'")
    parser.add_argument('--out-dir', type=Path, default='inferred', help='output folder; default: inferred')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='lowest score of objects that are drawn; default: 0.3'
    )
    parser.add_argument('--device', default='cpu', help='default: cpu')
    parser.add_argument('--fuse', action='store_true', help='merge layers for faster inference: mmacmix.deploy.fuse')
    args = parser.parse_args(argv)

    if not 0 <= args.score_thr <= 1:
        parser.error(f'--score-thr must be between 0 and 1, got {args.score_thr:g}')
    if args.out_dir.exists() and not args.out_dir.is_dir():
        parser.error(f'--out-dir {args.out_dir} is a file')
    cfg = load_config(args)
    media = find_media(args.inputs, without=args.out_dir)
    problems = infer(Predictor(cfg, args.checkpoint, args.device, args.fuse), media, args.out_dir, args.score_thr)
    print(f'\n{len(media) - len(problems)} of {len(media)} images and videos are in {args.out_dir}')
    if problems:
        raise UserError('some inputs failed or are incomplete:\n  ' + '\n  '.join(problems))


if __name__ == '__main__':
    run(main)
