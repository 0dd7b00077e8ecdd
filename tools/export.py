#!/usr/bin/env python
"""Write a network to a file that runs without this package, and check the file against the network.

python tools/export.py configs/upernet_acmix.py work_dirs/upernet_acmix/iter_160000.pth --format onnx
python tools/export.py configs/maskrcnn_acmix.py work_dirs/maskrcnn_acmix/epoch_12.pth --part backbone

Of a detector that is backbone and neck; MMDeploy exports whole detectors, with operators of its own for what follows.
"""

from argparse import ArgumentParser
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.utils import is_installed

from mmacmix.cli import add_config_arguments, command_line, load_config, run
from mmacmix.datasets.shapes import draw_scene
from mmacmix.deploy.exporter import FORMATS, PARTS, Exportable, difference, export, load
from mmacmix.errors import UserError
from mmacmix.inference import Predictor, read_image

SIZE = 512, 544  # height and width of the images that the network is traced with
MOST = 1e-3  # of the difference between file and network


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Write a network to a file that runs without this package, and check it.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=FORMATS, default='onnx', help='default: onnx')
    parser.add_argument(
        '--part', choices=PARTS, help='default: all of a segmentor, features (backbone and neck) of a detector'
    )
    parser.add_argument('--out', type=Path, help='default: the name of the config and of a --part, here')
    parser.add_argument('--image', help='image to compare file and network on; default: a generated one')
    args = parser.parse_args(argv)
    suffix = FORMATS[args.format]
    out = args.out or Path('_'.join(filter(None, (Path(args.config).stem, args.part))) + suffix)
    if out.suffix != suffix:
        parser.error(f'--out of --format {args.format} is a {suffix} file, got {out}')
    missing = [name for name in ('onnxscript', 'onnxruntime') if args.format == 'onnx' and not is_installed(name)]
    if missing:
        raise UserError(f'--format onnx needs {" and ".join(missing)}: pip install onnx onnxscript onnxruntime')
    image = read_image(args.image) if args.image else draw_scene(np.random.default_rng(0)).image[..., ::-1]
    model = Predictor(load_config(args), args.checkpoint).model
    network = Exportable(model, args.part or ('segmentor' if hasattr(model, 'decode_head') else 'features'))
    out.parent.mkdir(parents=True, exist_ok=True)
    exported = export(network, out, args.format, SIZE)
    opset = f'opset {exported.opset}, ' if exported.opset else ''
    print(f'{out}: {network.part}, {opset}{out.stat().st_size / 2**20:.1f} MiB')
    least = 'at least {} pixels high and {} wide'.format(*exported.smallest)
    print(f'It takes float images (B, 3, H, W), 0 to 255, BGR, {least}.')
    try:
        compare(network, load(out), image, exported.smallest)
    except UserError:
        out.unlink()
        raise


def compare(network: Exportable, exported, image: np.ndarray, smallest: tuple[int, int]) -> None:
    """Print how far file and network are apart for an image in three sizes."""
    for size in (smallest, (max(333, smallest[0]), max(417, smallest[1])), (608, 800)):
        resized = mmcv.imresize(np.ascontiguousarray(image), size[::-1]).transpose(2, 0, 1)
        try:
            far = difference(network, exported, torch.from_numpy(resized).float()[None])
        except AssertionError as error:  # a guard that torch has put into its file
            raise UserError(f'the file refuses images of {size[0]}x{size[1]}: {error}') from error
        print(f'{size[0]}x{size[1]}: file and network differ by {far:.1e} of the largest number')
        if far > MOST:
            raise UserError(f'the file computes something else than the network for {size[0]}x{size[1]}')


if __name__ == '__main__':
    run(main)
