#!/usr/bin/env python
"""Time and memory of ACmix, X-volution and LESA beside what they replace, measured in turn in one process.

python tools/benchmark.py op --channels 64 --size 100 168 --backward
python tools/benchmark.py backbone resnet50 --size 800 1344
python tools/benchmark.py detector mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py configs/maskrcnn_acmix.py
python tools/benchmark.py train mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py configs/maskrcnn_acmix.py
python tools/benchmark.py scaling
"""

import json
import math
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn.utils import fuse_conv_bn
from torch import Tensor, nn

from mmacmix.backbones import ACmixResNet, ACmixSwinTransformer, LESAResNet, XVolutionResNet
from mmacmix.cli import command_line, load_configs, run
from mmacmix.deploy import fuse
from mmacmix.errors import UserError
from mmacmix.inference import build_model
from mmacmix.layers import LESA, ACmix, MixingLayer, XVolution
from mmacmix.ops import available_backends
from mmacmix.reporting.measurement import Work, draw, draw_scaling, measure, table

# Lines of the chart of `scaling`.
ONE, SEVERAL = 'images of growing size', 'a growing number of small images'
DTYPES = ('float32', 'float16', 'bfloat16')


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Time and memory of ACmix, X-volution and LESA beside what they replace.')
    commands = parser.add_subparsers(dest='command', required=True)

    op = commands.add_parser('op', help='one layer: every backend, fused, a plain 3x3, X-volution, LESA, NATTEN')
    op.add_argument('--channels', type=int, default=64, help='default: 64')
    op.add_argument('--stride', type=int, default=1, help='default: 1')
    add_common(op, [100, 168], layers)

    backbone = commands.add_parser('backbone', help='a backbone: every backend, fused, and the plain network')
    backbone.add_argument('network', choices=['resnet50', 'swin-tiny'])
    add_common(backbone, [800, 1344], backbones)

    for name, text, works in (
        ('detector', "detectors' networks, without pre- and postprocessing, each also fused", detectors),
        ('train', 'a training step of detectors: forward, loss and backward', training_steps),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument('configs', nargs='+', help='config files, or package::path; the first is the baseline')
        command.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override all configs')
        add_common(command, [800, 1344], works)

    scaling = commands.add_parser('scaling', help='ACmix-ResNet-50 over the area of the image, and over the batch')
    add_common(scaling, [2000, 1333], sizes)

    args = parser.parse_args(argv)
    numbers = {
        name: getattr(args, name, None) for name in ('channels', 'stride', 'size', 'batch', 'repeats', 'threads')
    }
    for name, number in numbers.items():
        if number is not None and min(number if name == 'size' else [number]) < 1:
            parser.error(f'--{name} must be positive, got {number}')
    if args.chart and Path(args.chart).suffix != '.png':
        parser.error(f'--chart takes a .png file, got {args.chart}')
    for path in map(Path, filter(None, (args.json, args.chart))):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise UserError(f'{path} cannot be written: {error.strerror}') from error
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    try:
        args.machine = torch.cuda.get_device_name(args.device) if on_gpu(args) else cpu()
        works = choose(args.works(args), args)
        results = measure(works, args.repeats, args.device)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{args.command} cannot be measured with these arguments: {error}') from error
    show(results, args)


def on_gpu(args: Namespace) -> bool:
    return torch.device(args.device).type == 'cuda'


def cpu() -> str:
    """Threads, and the processor's name where Linux tells it."""
    info = Path('/proc/cpuinfo')
    names = re.findall(r'^model name\s*: (.*)', info.read_text(), re.MULTILINE) if info.exists() else []
    return ' of '.join([f'{torch.get_num_threads()} CPU threads', *names[:1]])


def add_common(parser: ArgumentParser, size: list[int], works: Callable[[Namespace], dict[str, Work]]) -> None:
    """The options that all commands share."""
    parser.set_defaults(works=works)
    text = f'pixels; default: {size[0]} {size[1]}'
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'), default=size, help=text)
    parser.add_argument('--batch', type=int, default=1, help='images; default: 1')
    parser.add_argument('--backward', action='store_true', help='forward and backward')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='alternatives to measure; default: all')
    parser.add_argument('--baseline', metavar='NAME', help='what the others are compared with; default: the plain one')
    parser.add_argument('--repeats', type=int, default=5, help='default: 5')
    parser.add_argument('--device', default='cpu', help='default: cpu')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='of whole configs by autocast')
    parser.add_argument('--channels-last', action='store_true', help='inputs in this memory format')
    parser.add_argument('--threads', type=int, help="of the CPU; default: torch's choice")
    parser.add_argument('--json', help='also write all numbers there')
    parser.add_argument('--chart', help='also draw the times into this PNG')


def layers(args: Namespace) -> dict[str, Work]:
    """One layer."""
    networks = {'plain 3x3': nn.Conv2d(args.channels, args.channels, 3, args.stride, 1, bias=False)}
    layer = ACmix(args.channels, args.channels, stride=args.stride)
    networks |= backends_of(layer, args)
    networks |= others(XVolution(args.channels, args.channels, stride=args.stride), args)
    if args.channels % 16 == 0:
        networks |= others(LESA(args.channels, args.channels, stride=args.stride), args)
    if on_gpu(args) and args.stride == 1 and find_spec('natten'):
        networks['natten'] = WithNatten.of(layer)
    return {
        name: on_random_maps(network, (args.batch, args.channels, *args.size), args)
        for name, network in networks.items()
    }


class WithNatten(ACmix):
    """ACmix whose attention is NATTEN's (arXiv 2204.07143), for stride and dilation 1.

    NATTEN moves windows that reach over the border inwards. Here the border is reflected first and cut off again in the
    end, so that such windows are those of pixels that nobody reads.
    """

    @classmethod
    def of(cls, layer: ACmix) -> 'WithNatten':
        """A copy of a layer."""
        copy = deepcopy(layer)
        copy.__class__ = cls
        return copy

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        from natten import na2d

        border = self.attention_kernel_size // 2
        query = F.pad(query, [border] * 4)
        key, value = (F.pad(each, [border] * 4 + [0, 0], mode='reflect') for each in (key, value))
        out = na2d(*(each.permute(0, 3, 4, 1, 2) for each in (query, key, value)), self.attention_kernel_size)
        return out[:, border:-border, border:-border].permute(0, 3, 4, 1, 2)


def backbones(args: Namespace) -> dict[str, Work]:
    """A whole backbone."""
    from mmdet.models import ResNet, SwinTransformer

    if args.network == 'resnet50':
        networks = {'plain': ResNet(50)} | backends_of(ACmixResNet(50), args)
        networks |= others(XVolutionResNet(50), args) | others(LESAResNet(50), args)
        if not args.backward:
            networks['plain, fused'] = fused(networks['plain'])
    else:
        networks = {'plain': SwinTransformer(), 'ACmix': ACmixSwinTransformer('tiny')}
    return {name: on_random_maps(network, (args.batch, 3, *args.size), args) for name, network in networks.items()}


class Images(NamedTuple):
    """Some images of a size."""

    number: int
    height: int
    width: int

    def __str__(self) -> str:
        return f'{self.number} of {self.height}x{self.width}'


def sizes(args: Namespace) -> dict[Images, Work]:
    """One backbone on an image of a quarter of the area to all of it, and on two to four images of the former."""
    network = ACmixResNet(50)
    quarters = {
        parts: Images(args.batch, *(round(side * (parts / 4) ** 0.5) for side in args.size)) for parts in range(1, 5)
    }
    several = [quarters[1]._replace(number=args.batch * parts) for parts in range(2, 5)]
    return {
        images: on_random_maps(network, (images.number, 3, images.height, images.width), args)
        for images in [*quarters.values(), *several]
    }


def on_random_maps(network: nn.Module, shape: tuple[int, int, int, int], args: Namespace) -> Work:
    """Forward, or forward and backward, of a network in the precision asked for."""
    dtype = getattr(torch, args.dtype)
    network.to(args.device, dtype)
    network.train(args.backward)
    x = in_format(torch.rand(shape, dtype=dtype, device=args.device), args)
    x.requires_grad_(args.backward and args.command == 'op')  # a backbone's input is an image
    grads: list[Tensor] = []

    def run() -> tuple | None:
        x.grad = None
        with nullcontext() if args.backward else torch.inference_mode():
            outs = network(x)
        if not args.backward:
            return None
        outs = list(outs) if isinstance(outs, (tuple, list)) else [outs]
        grads.extend(torch.rand_like(out) for out in outs[len(grads) :])
        return outs, grads

    return Work(run, [network])


def in_format(x: Tensor, args: Namespace) -> Tensor:
    """In the memory format asked for."""
    return x.contiguous(memory_format=torch.channels_last) if args.channels_last else x


def backends_of(model: nn.Module, args: Namespace) -> dict[str, nn.Module]:
    """The same network with every backend, and fused."""
    networks = {}
    for backend in available_backends(args.device):
        networks[backend] = deepcopy(model)
        for module in networks[backend].modules():
            if isinstance(module, ACmix):
                module.backend = backend
    if not args.backward:
        networks['fused'] = fused(model)
    return networks


def others(model: nn.Module, args: Namespace) -> dict[str, nn.Module]:
    """A network with another layer than ACmix, and the same fused."""
    name = type(model).__name__
    return {name: model} if args.backward else {name: model, f'{name}, fused': fused(model)}


def fused(model: nn.Module) -> nn.Module:
    """A copy, its layers and batch normalisation merged."""
    copy = deepcopy(model)
    copy.eval()  # returns nothing in the hosts' networks
    return fuse(copy) if any(isinstance(module, MixingLayer) for module in copy.modules()) else fuse_conv_bn(copy)


def detectors(args: Namespace) -> dict[str, Work]:
    """Inference of the networks of configs."""
    works = {}
    for name, cfg in load_configs(args.configs, args.cfg_options).items():
        model = build_model(cfg).to(args.device)
        model.eval()
        works[name] = inference(model, args)
        works[f'{name}, fused'] = inference(fused(model), args)
    return works


def training_steps(args: Namespace) -> dict[str, Work]:
    """A training step of the networks of configs."""
    args.backward = True
    configs = load_configs(args.configs, args.cfg_options)
    return {name: training_step(build_model(cfg).to(args.device), args) for name, cfg in configs.items()}


def precision(args: Namespace) -> AbstractContextManager:
    dtype = getattr(torch, args.dtype)
    return nullcontext() if dtype == torch.float32 else torch.autocast(torch.device(args.device).type, dtype)


def inference(model: nn.Module, args: Namespace) -> Work:
    image = in_format(torch.rand(args.batch, 3, *args.size, device=args.device), args)
    samples = batch_of(model, args)['data_samples'] if hasattr(model, 'roi_head') else None

    def run() -> None:
        with torch.inference_mode(), precision(args):
            model(image, samples, mode='tensor')

    return Work(run)


def training_step(model: nn.Module, args: Namespace) -> Work:
    model.train()
    batch = model.data_preprocessor(batch_of(model, args), True)
    batch['inputs'] = in_format(batch['inputs'], args)

    def run() -> tuple:
        with precision(args):
            return [model.parse_losses(model(**batch, mode='loss'))[0]], [None]

    return Work(run, [model])


def batch_of(model: nn.Module, args: Namespace) -> dict:
    """Random images, boxes and masks, as a data loader gives them."""
    from mmdet.testing import demo_mm_inputs

    masks = getattr(getattr(model, 'roi_head', None), 'with_mask', False)
    return demo_mm_inputs(
        args.batch, [[3, *args.size]] * args.batch, num_items=[10] * args.batch, num_classes=2, with_mask=masks
    )


def choose(works: dict, args: Namespace) -> dict:
    """Those that ``--only`` names, and the baseline."""
    names = [str(name) for name in works]
    args.baseline = args.baseline or names[0]
    wanted = [args.baseline, *(args.only or names)]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise UserError(f'there is {", ".join(map(repr, names))}, but no {unknown[0]!r}')
    works = {name: work for name, work in works.items() if str(name) in wanted}
    for name, work in list(works.items()):
        try:
            work.run()
        except Exception as error:
            sentence = f'{name!s} cannot be measured with these arguments: {str(error).splitlines()[0]}'
            if str(name) == args.baseline:
                raise UserError(f'{sentence}; --baseline takes another one') from error
            print(sentence)
            del works[name]
    return works


def show(results: dict, args: Namespace) -> None:
    """On the screen, and into the files asked for."""
    what = ' '.join(str(getattr(args, name)) for name in ('network', 'channels') if name in args)
    what += f' stride {args.stride}' if args.command == 'op' and args.stride > 1 else ''
    passes = 'forward and backward' if args.backward else 'forward'
    size = f'{args.batch} x {args.size[0]}x{args.size[1]}'
    memory_format = 'channels_last' if args.channels_last else ''
    title = ', '.join(each for each in (args.command, what, size, args.dtype, memory_format, passes) if each)
    named = {str(name): measured for name, measured in results.items()}
    print(f'{title}; {args.machine}, torch {torch.__version__}, {args.repeats} repeats\n')
    print(table(named, args.baseline))
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name not in ('works', 'machine')}
        numbers = {name: measured._asdict() for name, measured in named.items()}
        report = dict(settings=settings, machine=args.machine, torch=torch.__version__, results=numbers)
        Path(args.json).write_text(json.dumps(report, indent=2))
    if args.chart and args.command == 'scaling':
        series: dict[str, list] = {SEVERAL: [], ONE: []}
        for images, measured in results.items():
            alone = images.number == args.batch
            series[ONE if alone else SEVERAL].append((math.prod(images) / 1e6, measured))
        series = {name: points for name, points in series.items() if points}
        draw_scaling(series, 'million pixels', f'{title}; {args.machine}', args.chart)
    elif args.chart:
        draw(named, f'{title}; {args.machine}', args.chart)


if __name__ == '__main__':
    run(main)
