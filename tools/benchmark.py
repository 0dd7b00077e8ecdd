#!/usr/bin/env python
"""Compare time and memory of ACmix, X-volution and LESA with the layers they replace, alternating in one process.

``launches`` counts the kernel launches and the memory traffic of a GPU instead, and needs none.

python tools/benchmark.py op --channels 64 --size 100 168 --backward
python tools/benchmark.py backbone resnet50 --size 800 1344
python tools/benchmark.py detector mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py configs/maskrcnn_acmix.py
python tools/benchmark.py train mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py configs/maskrcnn_acmix.py
python tools/benchmark.py scaling
python tools/benchmark.py deploy resnet50 --threads 1
python tools/benchmark.py launches resnet50 --dtype bfloat16 --backward
"""

import openmp  # noqa: F401

import json
import math
import re
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.utils import is_installed
from torch import Tensor, nn

from mmacmix.backbones import (
    ACmixPyramidVisionTransformer,
    ACmixResNet,
    ACmixSwinTransformer,
    LESAResNet,
    XVolutionResNet,
)
from mmacmix.cli import command_line, load_configs, png_file, positive_int, run
from mmacmix.deploy import export, fuse
from mmacmix.errors import UserError, first_line
from mmacmix.inference import build_model
from mmacmix.layers import LESA, ACmix, MixingLayer, XVolution
from mmacmix.ops import BACKENDS, acmix, available_backends, check_torch
from mmacmix.reporting.launches import (
    BYTES_PER_SECOND,
    LAUNCH_SECONDS,
    Operation,
    count_launches,
    group_operations,
    summarize,
)
from mmacmix.reporting.measurement import Work, autocast, draw, draw_scaling, measure, table, with_backends
from mmacmix.reporting.tables import markdown_table


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        description='Compare time and memory of ACmix, X-volution and LESA with the layers they replace.'
    )
    commands = parser.add_subparsers(dest='command', required=True)

    op = commands.add_parser('op', help='one layer: every backend, fused, a plain 3x3, X-volution, LESA, NATTEN')
    op.add_argument('--channels', type=positive_int, default=64, help='default: 64')
    op.add_argument('--stride', type=positive_int, default=1, help='default: 1')
    add_common(op, [100, 168], layers)

    backbone = commands.add_parser('backbone', help='a backbone: every backend, fused, and the plain network')
    backbone.add_argument('network', choices=['resnet50', 'swin-tiny'])
    add_common(backbone, [800, 1344], backbones)

    for name, text, works in (
        ('detector', 'inference of detectors, without pre- and postprocessing, each also fused', detectors),
        ('train', 'a training step of detectors: forward, loss and backward', training_steps),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument('configs', nargs='+', help='config files, or package::path; the first is the baseline')
        command.add_argument(
            '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='settings that override all configs'
        )
        add_common(command, [800, 1344], works)

    deploy = commands.add_parser('deploy', help='a backbone and the plain network in torch, onnxruntime and OpenVINO')
    deploy.add_argument('network', choices=['resnet50', 'swin-tiny', 'pvt-tiny'])
    add_common(deploy, [800, 1344], runtimes)

    scaling = commands.add_parser('scaling', help='ACmix-ResNet-50 over the image area and over the batch size')
    add_common(scaling, [2000, 1333], sizes)

    launches = commands.add_parser('launches', help='kernel launches and memory traffic on a GPU, counted without one')
    add_launches(launches)

    args = parser.parse_args(argv)
    for path in filter(None, (args.json, getattr(args, 'chart', None))):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise UserError(f'{path} cannot be written: {error.strerror}') from error
    if args.command == 'launches':
        count(args)
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    try:
        machine = torch.cuda.get_device_name(args.device) if on_gpu(args) else cpu()
        works = choose(args.works(args), args)
        with neighbors(args.neighbors):
            results = measure(works, args.repeats, args.device)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{args.command} cannot be measured with these arguments: {error}') from error
    show(results, args, machine)


@contextmanager
def neighbors(number: int) -> Iterator[None]:
    """Processes that each keep a core busy."""
    code = 'import os; parent = os.getppid()\nwhile os.getppid() == parent: pass'
    with ExitStack() as ends:
        for _ in range(number):
            process = ends.enter_context(subprocess.Popen([sys.executable, '-c', code]))
            ends.callback(process.kill)
        yield


def on_gpu(args: Namespace) -> bool:
    return torch.device(args.device).type == 'cuda'


def cpu() -> str:
    """Number of threads, and on Linux the processor's name."""
    info = Path('/proc/cpuinfo')
    names = re.findall(r'^model name\s*: (.*)', info.read_text(), re.MULTILINE) if info.exists() else []
    return ' of '.join([f'{torch.get_num_threads()} CPU threads', *names[:1]])


def add_common(parser: ArgumentParser, size: list[int], works: Callable[[Namespace], dict[str, Work]]) -> None:
    """Add the options that all commands share."""
    parser.set_defaults(works=works)
    text = f'height and width of the input in pixels; default: {size[0]} {size[1]}'
    parser.add_argument('--size', nargs=2, type=positive_int, metavar=('H', 'W'), default=size, help=text)
    parser.add_argument('--batch', type=positive_int, default=1, help='number of images; default: 1')
    parser.add_argument('--backward', action='store_true', help='measure forward and backward')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='alternatives to measure; default: all')
    parser.add_argument('--baseline', metavar='NAME', help='alternative to compare with; default: the first one')
    parser.add_argument('--repeats', type=positive_int, default=5, help='default: 5')
    parser.add_argument('--device', default='cpu', help='default: cpu')
    parser.add_argument(
        '--dtype',
        choices=['float32', 'float16', 'bfloat16'],
        default='float32',
        help='precision, by autocast for configs; default: float32',
    )
    parser.add_argument('--channels-last', action='store_true', help='use the channels_last memory format')
    parser.add_argument('--threads', type=positive_int, help="number of CPU threads; default: torch's choice")
    text = 'busy processes beside the measurement; default: 0'
    parser.add_argument('--neighbors', type=int, default=0, metavar='N', help=text)
    parser.add_argument('--json', type=Path, help='file for all measurements')
    parser.add_argument('--chart', type=png_file, help='PNG file for a chart of the times')


def layers(args: Namespace) -> dict[str, Work]:
    """One layer."""
    arguments = dict(in_channels=args.channels, out_channels=args.channels, stride=args.stride)
    layer = ACmix(**arguments)
    networks = {'plain 3x3': nn.Conv2d(**arguments, kernel_size=3, padding=1, bias=False)}
    networks |= all_forms(layer, args) | with_fused(XVolution(**arguments), args)
    if args.channels % 16 == 0:
        networks |= with_fused(LESA(**arguments), args)
    if on_gpu(args) and args.stride == 1 and find_spec('natten'):
        networks['natten'] = WithNatten.of(layer)
    return on_random_maps(networks, args.channels, args)


class WithNatten(ACmix):
    """ACmix with NATTEN's attention (arXiv 2204.07143), for stride 1 and dilation 1.

    NATTEN moves windows inwards at the border. The input is therefore padded by reflection, and the output is cropped
    to the pixels whose windows were not moved.
    """

    @classmethod
    def of(cls, layer: ACmix) -> 'WithNatten':
        """A copy of a layer."""
        copy = deepcopy(layer)
        copy.__class__, copy.backend = cls, 'tiles'
        return copy

    def forward(self, x: Tensor) -> Tensor:
        with mock.patch.object(acmix, 'neighborhood_attention', self.attend):
            return super().forward(x)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
        from natten import na2d

        border = self.attention_kernel_size // 2
        query = F.pad(query, [border] * 4)
        key, value = (F.pad(each, [border] * 4 + [0, 0], mode='reflect') for each in (key, value))
        out = na2d(*(each.permute(0, 3, 4, 1, 2) for each in (query, key, value)), self.attention_kernel_size)
        return out[:, border:-border, border:-border].permute(0, 3, 4, 1, 2)


def backbones(args: Namespace) -> dict[str, Work]:
    """A whole backbone."""
    networks = pair(args.network)
    if args.network == 'resnet50':
        networks = {'plain': networks['plain']} | all_forms(networks['ACmix'], args)
        networks |= with_fused(XVolutionResNet(50), args) | with_fused(LESAResNet(50), args)
        if not args.backward:
            networks['plain, fused'] = fused(networks['plain'])
    return on_random_maps(networks, 3, args)


def runtimes(args: Namespace) -> dict[str, Work]:
    """The fused networks in every runtime that is installed, written to ONNX for one size."""
    if (args.device, args.dtype, args.backward, args.batch) != ('cpu', 'float32', False, 1):
        raise UserError('deploy measures one image in float32 on a CPU, forward')
    works: dict[str, Work] = {}
    installed = {runtime: work for runtime, work in RUNTIMES.items() if is_installed(runtime)}
    shape = 1, 3, *args.size
    for name, network in pair(args.network).items():
        works[f'{name}, torch'] = on_random_map(fused(network), shape, args)
        works[f'{name}, torch.compile'] = on_random_map(torch.compile(fused(network)), shape, args)
        with TemporaryDirectory() as folder:
            path = Path(folder) / 'network.onnx'
            export(fuse(network, dense=True), path, 'onnx', args.size)
            for runtime, work in installed.items():
                works[f'{name}, {runtime}'] = work(path, np.random.rand(*shape).astype(np.float32))
    in_order = ['torch', 'torch.compile', *installed]
    return dict(sorted(works.items(), key=lambda item: in_order.index(item[0].split(', ')[1])))


def pair(network: str) -> dict[str, nn.Module]:
    """The plain network and that with ACmix."""
    from mmdet.models import PyramidVisionTransformer, ResNet, SwinTransformer

    if network == 'resnet50':
        return {'plain': ResNet(50), 'ACmix': ACmixResNet(50)}
    if network == 'swin-tiny':
        return {'plain': SwinTransformer(), 'ACmix': ACmixSwinTransformer('tiny')}
    plain = PyramidVisionTransformer(num_layers=[2, 2, 2, 2])
    return {'plain': plain, 'ACmix': ACmixPyramidVisionTransformer('tiny')}


def in_onnxruntime(path: Path, image: np.ndarray) -> Work:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def run() -> None:
        session.run(None, {'image': image})

    return Work(run)


def in_openvino(path: Path, image: np.ndarray) -> Work:
    import openvino

    core = openvino.Core()
    # Without the hint, CPUs that have bfloat16 compute in it.
    options = {'INFERENCE_NUM_THREADS': torch.get_num_threads(), 'INFERENCE_PRECISION_HINT': 'f32'}
    model = core.compile_model(core.read_model(path), 'CPU', options)

    def run() -> None:
        model(image)

    return Work(run)


RUNTIMES = {'onnxruntime': in_onnxruntime, 'openvino': in_openvino}


class Images(NamedTuple):
    """A number of images of one size."""

    number: int
    height: int
    width: int

    def __str__(self) -> str:
        return f'{self.number} of {self.height}x{self.width}'


def sizes(args: Namespace) -> dict[Images, Work]:
    """One backbone on images of one to four quarters of the area, and on two to four times as many of the smallest."""
    network = ACmixResNet(50)
    growing = [Images(args.batch, *(round(side * (parts / 4) ** 0.5) for side in args.size)) for parts in range(1, 5)]
    several = [growing[0]._replace(number=args.batch * parts) for parts in range(2, 5)]
    return {
        images: on_random_map(network, (images.number, 3, images.height, images.width), args)
        for images in growing + several
    }


def on_random_maps(networks: dict[str, nn.Module], channels: int, args: Namespace) -> dict[str, Work]:
    shape = (args.batch, channels, *args.size)
    return {name: on_random_map(network, shape, args) for name, network in networks.items()}


def on_random_map(network: nn.Module, shape: tuple[int, int, int, int], args: Namespace) -> Work:
    """Forward, or forward and backward, of a network."""
    dtype = getattr(torch, args.dtype)
    network.to(args.device, dtype)
    network.train(args.backward)
    x = in_format(torch.rand(shape, dtype=dtype, device=args.device), args)
    x.requires_grad_(args.backward and args.command == 'op')  # the input of a backbone is an image
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
    return x.contiguous(memory_format=torch.channels_last) if args.channels_last else x


def all_forms(model: nn.Module, args: Namespace) -> dict[str, nn.Module]:
    """A network with each backend, and fused."""
    networks = with_backends(model, available_backends(args.device))
    return networks if args.backward else networks | {'fused': fused(model)}


def with_fused(model: nn.Module, args: Namespace) -> dict[str, nn.Module]:
    name = type(model).__name__
    return {name: model} if args.backward else {name: model, f'{name}, fused': fused(model)}


def fused(model: nn.Module) -> nn.Module:
    """A copy whose layers and batch normalisation are merged."""
    copy = deepcopy(model)
    copy.eval()  # returns None in the hosts' networks
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
    return autocast(args.device, getattr(torch, args.dtype))


def inference(model: nn.Module, args: Namespace) -> Work:
    image = in_format(torch.rand(args.batch, 3, *args.size, device=args.device), args)
    samples = random_batch(model, args)['data_samples'] if hasattr(model, 'roi_head') else None

    def run() -> None:
        with torch.inference_mode(), precision(args):
            model(image, samples, mode='tensor')

    return Work(run)


def training_step(model: nn.Module, args: Namespace) -> Work:
    model.train()
    batch = model.data_preprocessor(random_batch(model, args), True)
    batch['inputs'] = in_format(batch['inputs'], args)

    def run() -> tuple:
        with precision(args):
            return [model.parse_losses(model(**batch, mode='loss'))[0]], [None]

    return Work(run, [model])


def random_batch(model: nn.Module, args: Namespace) -> dict:
    """Random images, boxes and masks, in the form of a dataloader's batch."""
    from mmdet.testing import demo_mm_inputs

    masks = getattr(getattr(model, 'roi_head', None), 'with_mask', False)
    return demo_mm_inputs(
        args.batch, [[3, *args.size]] * args.batch, num_items=[10] * args.batch, num_classes=2, with_mask=masks
    )


def choose(works: dict, args: Namespace) -> dict:
    """The alternatives that ``--only`` names and the baseline, without those that fail."""
    names = [str(name) for name in works]
    args.baseline = args.baseline or names[0]
    wanted = [args.baseline, *(args.only or names)]
    for name in wanted:
        if name not in names:
            raise UserError(f'there is no alternative {name!r}: choose from {", ".join(map(repr, names))}')
    chosen = {}
    for name, work in works.items():
        if str(name) in wanted:
            try:
                work.run()
            except Exception as error:
                sentence = f'{name!s} cannot be measured with these arguments: {first_line(error)}'
                if str(name) == args.baseline:
                    raise UserError(f'{sentence}; choose another --baseline') from error
                print(sentence)
            else:
                chosen[name] = work
    return chosen


def show(results: dict, args: Namespace, machine: str) -> None:
    """Print the results, and write them to the files of ``--json`` and ``--chart``."""
    facts = [
        args.command,
        ' '.join(str(getattr(args, name)) for name in ('network', 'channels') if name in args),
        f'stride {args.stride}' if getattr(args, 'stride', 1) > 1 else '',
        f'{args.batch} x {args.size[0]}x{args.size[1]}',
        args.dtype,
        'channels_last' if args.channels_last else '',
        'forward and backward' if args.backward else 'forward',
        f'beside {args.neighbors} busy processes' if args.neighbors else '',
    ]
    title = f'{", ".join(filter(None, facts))}; {machine}'
    named = {str(name): measured for name, measured in results.items()}
    print(f'{title}, torch {torch.__version__}, {args.repeats} repeats\n')
    print(table(named, args.baseline))
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != 'works'}
        numbers = {name: measured._asdict() for name, measured in named.items()}
        report = dict(settings=settings, machine=machine, torch=torch.__version__, results=numbers)
        args.json.write_text(json.dumps(report, indent=2, default=str))
    if args.chart and args.command == 'scaling':
        series: dict[str, list] = {}
        for images, measured in results.items():
            name = 'growing images' if images.number == args.batch else 'a growing number of small images'
            series.setdefault(name, []).append((math.prod(images) / 1e6, measured))
        draw_scaling(series, 'million pixels', title, args.chart)
    elif args.chart:
        draw(named, title, args.chart)


def add_launches(parser: ArgumentParser) -> None:
    """Add the options of the counts."""
    text = 'one layer, or a backbone; default: layer'
    parser.add_argument('network', nargs='?', choices=['layer', 'resnet50', 'swin-tiny'], default='layer', help=text)
    parser.add_argument('--backend', nargs='+', metavar='NAME', help='backends to count; default: all for CUDA')
    parser.add_argument('--backward', action='store_true', help='count forward and backward')
    text = 'precision of weights and maps; default: float32'
    parser.add_argument('--dtype', choices=['float32', 'float16', 'bfloat16'], default='float32', help=text)
    text = 'height and width of the input in pixels; default: 200 336 for a layer, 800 1344 for a backbone'
    parser.add_argument('--size', nargs=2, type=positive_int, metavar=('H', 'W'), help=text)
    parser.add_argument('--batch', type=positive_int, default=1, help='number of images; default: 1')
    parser.add_argument('--channels', type=positive_int, help='channels of a layer; default: 64')
    parser.add_argument('--json', type=Path, help='file for the counts, with --verbose also of each operation')
    parser.add_argument('--verbose', action='store_true', help='list the operations')


def count(args: Namespace) -> None:
    """Count the launches of a layer or a backbone with each backend, and of the plain one."""
    check_torch('2.4', 'counting launches')
    is_layer = args.network == 'layer'
    if args.channels and not is_layer:
        raise UserError('--channels is for a layer: a backbone has an image as its input')
    args.channels = args.channels or 64 if is_layer else 3
    args.size = args.size or ([200, 336] if is_layer else [800, 1344])
    dtype = getattr(torch, args.dtype)
    x = torch.empty(args.batch, args.channels, *args.size, dtype=dtype, device='meta')
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(args.backward and is_layer)
    try:
        counts = {}
        for name, network in alternatives(args).items():
            network.train(args.backward)
            # The mask of mmdet's Swin has the default dtype, which must be that of the maps.
            with default_dtype(dtype) if args.network == 'swin-tiny' and name == 'plain' else nullcontext():
                counts[name] = count_launches(network.to(dtype), x, args.backward)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'launches cannot be counted with these arguments: {first_line(error)}') from error
    show_counts(counts, x.numel() * x.element_size() if is_layer else None, args)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def alternatives(args: Namespace) -> dict[str, nn.Module]:
    """The plain layer or backbone, and ACmix with each backend."""
    if args.network == 'swin-tiny':
        from mmdet.models import SwinTransformer

        if args.backend:
            raise UserError('--backend does not apply to swin-tiny: its windows do not overlap, so it has no backends')
        return {'plain': SwinTransformer(), 'ACmix': ACmixSwinTransformer('tiny')}
    available = available_backends('cuda')
    for backend in args.backend or ():
        if backend not in available:
            reason = ': Triton is not installed' if backend == 'triton' and backend in BACKENDS else ''
            raise UserError(f'there is no backend {backend!r} for CUDA{reason}; choose from {", ".join(available)}')
    if 'triton' not in available and not args.backend:
        print("The backend 'triton' is not counted, because Triton is not installed.")
    chosen = args.backend or available
    if args.network == 'layer':
        sizes = dict(in_channels=args.channels, out_channels=args.channels)
        networks = {'plain 3x3': nn.Conv2d(**sizes, kernel_size=3, padding=1, bias=False)}
        return networks | {backend: ACmix(**sizes, backend=backend) for backend in chosen}
    from mmdet.models import ResNet

    networks = {'plain': ResNet(50, norm_eval=True)}
    return networks | {backend: ACmixResNet(50, acmix=dict(backend=backend), norm_eval=True) for backend in chosen}


def show_counts(counts: dict[str, list[Operation]], map_bytes: int | None, args: Namespace) -> None:
    """Print the counts, and write them to the file of ``--json``. The unit is the input of a layer, or a GB."""
    unit, unit_bytes = ('maps', map_bytes) if map_bytes else ('GB', 1e9)
    facts = [
        f'{args.network}, {args.batch} x {args.channels} x {args.size[0]}x{args.size[1]}, {args.dtype}, channels_last',
        'forward and backward' if args.backward else 'forward',
    ]
    print(f'{", ".join(facts)}; torch {torch.__version__}')
    print(
        f'Counted, not measured. Modelled for a GPU with {BYTES_PER_SECOND / 1e12:g} TB/s where a launch costs '
        f'{LAUNCH_SECONDS * 1e6:g} us: the time of all launches or of all bytes, whichever is larger.\n'
    )
    summaries = {name: summarize(operations) for name, operations in counts.items()}
    plain = next(iter(summaries.values()))
    rows = [
        [
            name,
            str(summary.launches),
            f'{summary.bytes / 1e9:.3g}',
            *([f'{summary.bytes / map_bytes:.1f}'] if map_bytes else []),
            f'{summary.seconds * 1e3:.3g}',
            f'{summary.seconds / plain.seconds:.3g}',
        ]
        for name, summary in summaries.items()
    ]
    maps = ['maps'] if map_bytes else []
    print(markdown_table(['', 'launches', 'GB', *maps, 'modelled ms', 'times plain'], rows))
    results = {name: summary._asdict() for name, summary in summaries.items()}
    if args.verbose:
        for name, operations in counts.items():
            grouped = group_operations(operations)
            results[name]['operations'] = [each._asdict() for each in grouped]
            rows = [
                [
                    each.name,
                    str(each.launches),
                    *(f'{moved / unit_bytes:.3f}' for moved in (each.read, each.written)),
                    ' '.join('x'.join(map(str, shape)) or '()' for shape in each.shapes),
                ]
                for each in grouped
            ]
            print(markdown_table([name, 'launches', f'{unit} read', f'{unit} written', 'inputs'], rows))
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != 'json'}
        model = dict(launch_seconds=LAUNCH_SECONDS, bytes_per_second=BYTES_PER_SECOND)
        report = dict(settings=settings, model=model, map_bytes=map_bytes, torch=torch.__version__, results=results)
        args.json.write_text(json.dumps(report, indent=2, default=str))


if __name__ == '__main__':
    run(main)
