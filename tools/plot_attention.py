#!/usr/bin/env python
"""Draw the attention of one pixel over the image: each head, in the last attention layer of each stage.

python tools/plot_attention.py configs/maskrcnn_acmix.py work_dirs/maskrcnn_acmix/epoch_12.pth photo.jpg --pixel 320 240
"""

from argparse import ArgumentParser

import mmcv

from mmacmix.cli import add_config_arguments, command_line, load_config, png_file, run
from mmacmix.errors import UserError
from mmacmix.inference import Predictor, read_image
from mmacmix.reporting.attention_maps import draw_attention, last_of_each_stage


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description='Draw the attention of one pixel: each head, in the last attention layer of each stage.'
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('image', help='image file')
    parser.add_argument('--pixel', nargs=2, type=int, metavar=('X', 'Y'), help='default: the centre of the image')
    parser.add_argument('--out', type=png_file, default='attention.png', help='PNG file; default: attention.png')
    parser.add_argument('--device', default='cpu', help='default: cpu')
    args = parser.parse_args(argv)
    image = read_image(args.image)
    height, width = image.shape[:2]
    x, y = args.pixel or (width // 2, height // 2)
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f'--pixel {x} {y} is outside {args.image}, which is {width} pixels wide and {height} high')
    predictor = Predictor(load_config(args), args.checkpoint, args.device)
    maps, covered = predictor.attention_maps(image, (x, y))
    if not maps:
        raise UserError(f'{args.config} has no attention layer')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw_attention(mmcv.bgr2rgb(image), last_of_each_stage(maps), (x, y), covered, args.out)
    print(f'The attention of the pixel at {x}, {y} is drawn in {args.out}')


if __name__ == '__main__':
    run(main)
