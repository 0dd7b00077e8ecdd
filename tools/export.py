#!/usr/bin/env python
"""Export a network to a file that runs without this package, and check its outputs against the network.

python tools/export.py configs/upernet_acmix.py work_dirs/upernet_acmix/iter_160000.pth --format onnx
python tools/export.py configs/maskrcnn_acmix.py work_dirs/maskrcnn_acmix/epoch_12.pth --part backbone

Of a detector, only backbone and neck are exported; MMDeploy exports whole detectors, with its own operators.
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
from mmacmix.ops import check_torch

SIZE = 512, 544  # height and width of the image for tracing
TOLERANCE = 1e-3  # relative to the largest output


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Export a network to a file that runs without this package.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=FORMATS, default='onnx', help='default: onnx')
    parser.add_argument(
        '--part', choices=PARTS, help='default: segmentor, or for a detector features: backbone and neck'
    )
    parser.add_argument('--out', type=Path, help='default: named after the config and --part')
    parser.add_argument('--image', help='image to compare the outputs on; default: a generated one')
    args = parser.parse_args(argv)
    suffix = FORMATS[args.format]
    out = args.out or Path('_'.join(filter(None, (Path(args.config).stem, args.part))) + suffix)
    if out.suffix != suffix:
        parser.error(f'--out must be a {suffix} file for --format {args.format}, got {out}')
    check_torch('2.6', 'exporting a network')  # before what only newer versions of torch can have
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
    height, width = exported.smallest
    print(f'Input: float images (B, 3, H, W), 0 to 255, BGR, at least {height} pixels high and {width} wide.')
    try:
        compare(network, load(out), image, exported.smallest)
    except UserError:
        out.unlink()
        raise


def compare(network: Exportable, exported, image: np.ndarray, smallest: tuple[int, int]) -> None:
    """Print the difference between the outputs of file and network for an image at three sizes."""
    for size in (smallest, (max(333, smallest[0]), max(417, smallest[1])), (608, 800)):
        resized = mmcv.imresize(np.ascontiguousarray(image), size[::-1]).transpose(2, 0, 1)
        try:
            error = difference(network, exported, torch.from_numpy(resized).float()[None])
        except AssertionError as guard:  # torch writes guards into the file
            raise UserError(f'the file refuses images of {size[0]}x{size[1]}: {guard}') from guard
        print(f'{size[0]}x{size[1]}: file and network differ by {error:.1e} of the largest output')
        if error > TOLERANCE:
            raise UserError(f'the outputs of file and network differ for images of {size[0]}x{size[1]}')


if __name__ == '__main__':
    run(main)
