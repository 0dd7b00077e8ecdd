#!/usr/bin/env python
"""Export a network to a file that runs without this package, and check its outputs against the network.

python tools/export.py configs/upernet_acmix.py work_dirs/upernet_acmix/iter_160000.pth --format onnx
python tools/export.py configs/maskrcnn_acmix.py work_dirs/maskrcnn_acmix/epoch_12.pth --size 800 1344
python tools/export.py configs/maskrcnn_acmix.py work_dirs/maskrcnn_acmix/epoch_12.pth --part backbone

demo/onnx_inference.py runs an exported detector or segmentor without this package.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.utils import is_installed
from torch import nn

from mmacmix.cli import add_config_arguments, command_line, load_config, positive_int, run
from mmacmix.datasets import innermost
from mmacmix.datasets.shapes import draw_scene
from mmacmix.deploy.exporter import FORMATS, PARTS, Exportable, difference, export, load
from mmacmix.deploy.metadata import describe
from mmacmix.errors import UserError
from mmacmix.inference import Predictor, read_image
from mmacmix.ops import check_torch

TOLERANCE = 1e-3  # relative to the largest value of a map; of scores


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Export a network to a file that runs without this package.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=FORMATS, default='onnx', help='default: onnx')
    parser.add_argument('--part', choices=PARTS, help='default: the whole segmentor or detector')
    parser.add_argument(
        '--size', type=positive_int, nargs=2, metavar=('H', 'W'),
        help='height and width of all images, for a smaller and faster file; default: any size',
    )  # fmt: skip
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
    cfg = load_config(args)
    predictor = Predictor(cfg, args.checkpoint)
    network = Exportable(predictor.model, args.part or default_part(predictor.model, args.format))
    out.parent.mkdir(parents=True, exist_ok=True)
    pipeline = next(innermost(cfg.test_dataloader.dataset)).pipeline
    metadata = describe(network.part, pipeline, predictor.classes, predictor.palette)
    exported = export(network, out, args.format, args.size, metadata)
    opset = f'opset {exported.opset}, ' if exported.opset else ''
    print(f'{out}: {network.part}, {opset}{out.stat().st_size / 2**20:.1f} MiB')
    height, width = exported.smallest
    images = '1' if args.size or network.part == 'detector' else 'B'
    bound = 'exactly' if args.size else 'at least'
    print(f'Input: float images ({images}, 3, H, W), 0 to 255, BGR, {bound} {height} pixels high and {width} wide.')
    sizes = [exported.smallest]
    if not args.size:
        sizes += [(max(333, height), max(417, width)), (608, 800)]
    try:
        compare(network, load(out), image, sizes)
    except UserError:
        out.unlink()
        raise


def default_part(model: nn.Module, form: str) -> str:
    if hasattr(model, 'decode_head'):
        return 'segmentor'
    return 'features' if form == 'torch-export' else 'detector'


def compare(network: Exportable, exported, image: np.ndarray, sizes: Sequence[tuple[int, int]]) -> None:
    """Print the difference between the outputs of file and network for an image at some sizes."""
    of = 'in the scores of what they find' if network.part == 'detector' else 'of the largest output'
    for size in sizes:
        resized = mmcv.imresize(np.ascontiguousarray(image), size[::-1]).transpose(2, 0, 1)
        try:
            error = difference(network, exported, torch.from_numpy(resized).float()[None])
        except AssertionError as guard:  # torch writes guards into the file
            raise UserError(f'the file refuses images of {size[0]}x{size[1]}: {guard}') from guard
        print(f'{size[0]}x{size[1]}: file and network differ by {error:.1e} {of}')
        if error > TOLERANCE:
            raise UserError(f'the outputs of file and network differ for images of {size[0]}x{size[1]}')


if __name__ == '__main__':
    run(main)
