#!/usr/bin/env python
"""Check that everything works on a GPU, and how fast.

Results are compared with float64 on the CPU. A detector runs, a backbone is compiled, and memory and speed are compared
with those of the plain ResNet-50. The last column of the table says what was compared.

python tools/gpu_check.py
python tools/gpu_check.py --quick --device cpu
"""

import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmacmix.backbones import ACmixResNet
from mmacmix.cli import command_line, load_configs, run
from mmacmix.errors import UserError, first_line
from mmacmix.inference import build_model
from mmacmix.layers import ACmix
from mmacmix.ops import available_backends
from mmacmix.reporting.gpu_behaviour import behaviour_checks
from mmacmix.reporting.gpu_check import (
    Check,
    Failed,
    Finding,
    Row,
    Skipped,
    numerical_checks,
    precise_float32,
    relative_error,
    run_checks,
)
from mmacmix.reporting.measurement import Work, autocast, measure, with_backends
from mmacmix.reporting.tables import markdown_table

DETECTOR = Path(__file__).parents[1] / 'configs' / 'shapes' / 'mask-rcnn_acmix-r26_shapes.py'
REPEATS, SECONDS = 10, 20  # fewer repeats, but at least one, if they would take longer
COMPILE_BOUND = 1e-5
LOSS_BOUND = 1e-3


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Check that everything works on a GPU, and how fast.')
    parser.add_argument('--device', default='cuda', help='default: cuda')
    parser.add_argument('--json', type=Path, default=Path('build/gpu-check.json'), help='default: build/gpu-check.json')
    parser.add_argument('--quick', action='store_true', help='use small maps and images')
    args = parser.parse_args(argv)
    try:
        device = torch.device(args.device)
    except RuntimeError as error:
        raise UserError(f'--device: {first_line(error)}') from error
    if device.type == 'cuda' and not torch.cuda.is_available():
        print(
            f'gpu_check.py: torch {torch.__version__} finds no GPU; --device cpu runs what a CPU can.', file=sys.stderr
        )
        sys.exit(2)
    try:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.touch()
    except OSError as error:
        raise UserError(f'{args.json} cannot be written: {error.strerror}') from error
    if device.type == 'cuda' and device.index is not None:
        torch.cuda.set_device(device)
    facts = machine(device) | dict(quick=args.quick)
    rows: list[Row] = []
    for row in run_checks(all_checks(device, args.quick or device.type == 'cpu')):
        rows.append(row)
        # Written after each check, because a crash of the driver can end the process.
        args.json.write_text(json.dumps(facts | dict(rows=[each._asdict() for each in rows]), indent=2, default=str))
    print(', '.join(f'{name} {value}' for name, value in facts.items() if value))
    print(markdown_table(Row._fields[:3], [[text.replace('|', '/') for text in row[:3]] for row in rows]))
    counts = {result: [row.result for row in rows].count(result) for result in ('passed', 'failed', 'skipped')}
    print(', '.join(f'{number} {result}' for result, number in counts.items()))
    if counts['failed']:
        sys.exit(1)


def machine(device: torch.device) -> dict[str, Any]:
    """The GPU and the versions of the driver and the libraries; None for what is not there."""
    facts: dict[str, Any] = dict(device=str(device), gpu=None, capability=None, driver=None, cuda=torch.version.cuda)
    if device.type == 'cuda':
        facts['gpu'] = torch.cuda.get_device_name(device)
        facts['capability'] = '{}.{}'.format(*torch.cuda.get_device_capability(device))
        facts['driver'] = driver()
    facts['python'] = platform.python_version()
    for package in ('torch', 'triton', 'mmcv', 'mmdet', 'mmengine', 'mmacmix', 'natten'):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    return facts


def driver() -> str | None:
    """The version of NVIDIA's driver."""
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def all_checks(device: torch.device, quick: bool) -> dict[str, Check]:
    """All checks by name."""
    checks = numerical_checks(device, quick) | behaviour_checks(device)
    for dtype in ('float32', 'float16', 'bfloat16'):
        checks[f'detector, inference, {dtype}'] = partial(check_inference, device, getattr(torch, dtype))
    checks['training, losses as on the CPU'] = partial(check_losses, device)
    checks['detector, AMP training'] = partial(check_amp_training, device)
    stages = (False, False, False, True) if quick else (True, True, True, True)  # a CPU takes long to record them all
    for name, dynamic in {'each size': False, 'changing sizes': None}.items():
        checks[f'torch.compile, {name}'] = partial(check_compile, device, dynamic, stages)
    size = (1, 3, 128, 160) if quick else (2, 3, 800, 1344)
    checks['memory, training step, bfloat16'] = partial(check_memory, device, size)
    limit = 1 if quick else SECONDS
    for backward, dtype in product((False, True), ('bfloat16', 'float32')):
        name = f'{"training step" if backward else "forward"}, {dtype}'
        arguments = device, getattr(torch, dtype), backward
        checks[f'speed, ResNet-50, {name}'] = partial(check_speed, *arguments, partial(backbones, device), size, limit)
        shape = (1, 64, 32, 40) if quick else (2, 64, 200, 336)
        checks[f'speed, layer, {name}'] = partial(check_speed, *arguments, partial(layers, device), shape, limit)
        if dtype == 'bfloat16':
            checks[f'speed, NATTEN, {name}'] = partial(
                check_speed, *arguments, partial(natten_layers, device), shape, limit
            )
    return checks


def detector(device: torch.device) -> nn.Module:
    """A small Mask R-CNN with random weights, which detects something in noise."""
    options = ['model.backbone.base_channels=8', 'model.neck.in_channels=[32,64,128,256]']
    (cfg,) = load_configs([str(DETECTOR)], [*options, 'model.test_cfg.rcnn.score_thr=0.0']).values()
    return build_model(cfg).to(device)


def random_batch(number: int) -> dict:
    """Random images, boxes and masks in the form of a dataloader's batch."""
    from mmdet.testing import demo_mm_inputs

    shapes = [[3, 128, 160]] * number
    return demo_mm_inputs(number, shapes, num_items=[4] * number, num_classes=2, with_mask=True)


@contextmanager
def limits_of_mmcv(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """A context that skips the check if a compiled operator of MMCV does not support the dtype.

    On a GPU, they all have to support float16.
    """
    try:
        yield
    except Exception as error:
        of_mmcv = 'mmcv/ops' in Path(traceback.extract_tb(error.__traceback__)[-1].filename).as_posix()
        if of_mmcv and (dtype == torch.bfloat16 or (dtype == torch.float16 and device.type == 'cpu')):
            raise Skipped(f'an operator of MMCV does not support {name_of(dtype)}: {first_line(error)}') from error
        raise


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def check_inference(device: torch.device, dtype: torch.dtype) -> Finding:
    """Inference of a detector, in half precision as MMEngine's ``TestLoop(fp16=True)`` runs it."""
    model = detector(device).eval()
    with limits_of_mmcv(device, dtype), torch.no_grad(), autocast(device, dtype):
        (result,) = model.test_step(random_batch(1))
    found = result.pred_instances
    if not len(found.bboxes):
        raise Failed('no boxes were found')
    if not (found.bboxes.isfinite().all() and found.scores.isfinite().all()):
        raise Failed('boxes or scores are not finite')
    precision = 'float32' if dtype == torch.float32 else f'autocast to {name_of(dtype)}'
    return Finding(f'Mask R-CNN with ACmix-ResNet-26, {precision}: {len(found.bboxes)} finite boxes in a random image')


class Classifier(nn.Module):
    """A backbone and a linear layer. Unlike a detector, it samples nothing at random in training."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(channels, 10)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.head(self.backbone(images)[-1].mean((2, 3))), labels)


def check_losses(device: torch.device) -> Finding:
    """Losses of training steps against those on the CPU, with the same weights and images."""
    model = Classifier(ACmixResNet(26, base_channels=8, norm_eval=False), 256).train()
    images, labels = torch.randn(4, 3, 96, 128), torch.arange(4)
    expected, actual = (losses(deepcopy(model), images, labels, where) for where in (torch.device('cpu'), device))
    errors = [abs(a - b) / abs(b) for a, b in zip(actual, expected, strict=True)]
    numbers = dict(cpu=expected, device=actual)
    if not max(errors) <= LOSS_BOUND:
        raise Failed(f'the losses {actual} differ from {expected} on the CPU by more than {LOSS_BOUND:.0e}', numbers)
    texts = ', '.join(f'{loss:.4f}' for loss in actual)
    detail = f'classifier with ACmix-ResNet-26, float32, three steps of SGD: losses {texts}'
    return Finding(f'{detail}; largest relative difference {max(errors):.1e}, bound {LOSS_BOUND:.0e}', numbers)


def losses(model: nn.Module, images: Tensor, labels: Tensor, device: torch.device) -> list[float]:
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    values = []
    with precise_float32():
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(images.to(device), labels.to(device))
            loss.backward()
            optimizer.step()
            values.append(loss.item())
    return values


def check_amp_training(device: torch.device) -> Finding:
    """Training steps of a detector by MMEngine's ``AmpOptimWrapper``, or in bfloat16 on a CPU."""
    from mmengine.optim import AmpOptimWrapper, OptimWrapper

    model = detector(device).train()
    on_gpu = device.type == 'cuda'
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    wrapper = AmpOptimWrapper(dtype='float16', optimizer=optimizer) if on_gpu else OptimWrapper(optimizer)
    batch, values = random_batch(2), []
    dtype = torch.float16 if on_gpu else torch.bfloat16
    with limits_of_mmcv(device, dtype), nullcontext() if on_gpu else autocast(device, dtype):
        for _ in range(3):
            values.append({name: value.item() for name, value in model.train_step(deepcopy(batch), wrapper).items()})
    numbers = dict(losses=values)
    infinite = [name for name in values[0] if not all(torch.tensor(step[name]).isfinite() for step in values)]
    if infinite:
        raise Failed(f'not finite in three steps: {", ".join(infinite)}', numbers)
    totals = ', '.join(f'{step["loss"]:.3f}' for step in values)
    return Finding(f'Mask R-CNN with ACmix-ResNet-26, {name_of(dtype)}, three steps: losses {totals}', numbers)


def check_compile(device: torch.device, dynamic: bool | None, stages: Sequence[bool]) -> Finding:
    """A compiled backbone against the eager one; on a CPU, the graph is recorded and nothing is compiled.

    Args:
        device: The device.
        dynamic: False compiles each size by itself; None compiles for all sizes when the second one comes.
        stages: Stages of the backbone with ACmix.
    """
    oldest, purpose = ('2.4', 'without graph breaks') if dynamic is False else ('2.13', 'for maps of changing sizes')
    if torch.__version__ < oldest:
        raise Skipped(f'compiling {purpose} needs torch {oldest}')
    from torch import _dynamo

    backend = 'inductor' if device.type == 'cuda' else 'eager'
    network = ACmixResNet(26, base_channels=8, stage_with_acmix=stages).to(device).eval()
    _dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, dynamic=dynamic, backend=backend)
    errors, sizes = [], [(96, 128), (128, 160)]
    with torch.no_grad(), precise_float32():
        for size in sizes:
            images = torch.randn(2, 3, *size, device=device)
            truths = [each.cpu().double() for each in network(images)]
            errors += [relative_error(*pair) for pair in zip(compiled(images), truths, strict=True)]
    if not max(errors) <= COMPILE_BOUND:
        raise Failed(f'compiled and eager maps differ by {max(errors):.1e}, above {COMPILE_BOUND:.0e}')
    texts = ' and '.join(f'{height}x{width}' for height, width in sizes)
    detail = f'ACmix-ResNet-26, backend {backend}, fullgraph, images of {texts}: largest difference {max(errors):.1e}'
    return Finding(f'{detail}, bound {COMPILE_BOUND:.0e}')


def check_memory(device: torch.device, shape: Sequence[int]) -> Finding:
    """Peak memory of a training step."""
    if device.type != 'cuda':
        raise Skipped('peak memory is measured on GPUs only')
    from mmdet.models import ResNet

    with_weights = {}
    for name, network in {'plain': ResNet(50), 'auto': ACmixResNet(50)}.items():
        work = work_of(network.to(device), shape, device, torch.bfloat16, backward=True)
        peak = measure({name: work}, 0, device)[name].peak_memory
        with_weights[name] = peak + sum(each.nbytes for each in network.parameters())
        network.to('cpu')
        torch.cuda.empty_cache()
    plain, ours = (with_weights[name] / 2**30 for name in ('plain', 'auto'))
    detail = f'{text_of(shape)}: ResNet-50 {plain:.2f} GiB, ACmix-ResNet-50 {ours:.2f} GiB, {ours / plain:.2f} times'
    return Finding(detail, with_weights)


def backbones(device: torch.device) -> dict[str, nn.Module]:
    """ResNet-50, and ACmix-ResNet-50 by each backend."""
    from mmdet.models import ResNet

    return {'plain': ResNet(50)} | with_backends(ACmixResNet(50), available_backends(device))


def layers(device: torch.device) -> dict[str, nn.Module]:
    """An ACmix layer by each backend, the reference first, and a plain convolution."""
    names = [name for name in available_backends(device) if name != 'reference']
    convolution = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    return with_backends(ACmix(64, 64), ('reference', *names)) | {'plain 3x3': convolution}


def natten_layers(device: torch.device) -> dict[str, nn.Module]:
    """An ACmix layer, and one with NATTEN's attention."""
    if not importlib.util.find_spec('natten'):
        raise Skipped('NATTEN is not installed')
    if device.type != 'cuda':
        raise Skipped('NATTEN is measured on GPUs only')
    layer = ACmix(64, 64)
    return {'auto': layer, 'NATTEN': benchmark().WithNatten.of(layer)}


def benchmark() -> ModuleType:
    """The module of tools/benchmark.py."""
    spec = importlib.util.spec_from_file_location('benchmark', Path(__file__).with_name('benchmark.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_speed(
    device: torch.device,
    dtype: torch.dtype,
    backward: bool,
    build: Callable[[], dict[str, nn.Module]],
    shape: Sequence[int],
    limit: float,
) -> Finding:
    """Times of networks that take turns; the first one is the baseline. TF32 is used where torch does so by default."""
    works, notes, failed = {}, [], []
    round_seconds = 0.0
    for name, network in build().items():
        work = work_of(network.to(device), shape, device, dtype, backward)
        try:
            seconds = measure({name: work}, 1, device)[name].seconds[0]  # after the two runs that measure memory
        except torch.cuda.OutOfMemoryError:
            notes.append(f'{name} does not fit in the memory')
        except Exception as error:
            failed.append(f'{name}: {first_line(error)}')
        else:
            works[name] = work
            round_seconds += seconds
            continue
        network.to('cpu')
    if works:
        repeats = max(1, min(REPEATS, int(limit / round_seconds)))
        results = measure(works, repeats, device)
        medians = {name: statistics.median(each.seconds) for name, each in results.items()}
        baseline, *others = medians
        texts = [f'{baseline} {1e3 * medians[baseline]:.2f} ms']
        texts += [
            f'{name} {1e3 * medians[name]:.2f} ms ({medians[name] / medians[baseline]:.3g} times {baseline})'
            for name in others
        ]
        notes.insert(0, f'{text_of(shape)}, {repeats} repeats: {", ".join(texts)}')
        numbers = {name: each.seconds for name, each in results.items()}
    else:
        numbers = {}
    if failed:
        raise Failed('; '.join(failed + notes), numbers)
    if not works:
        raise Skipped('; '.join(notes))
    return Finding('; '.join(notes), numbers)


def work_of(network: nn.Module, shape: Sequence[int], device: torch.device, dtype: torch.dtype, backward: bool) -> Work:
    """Forward, or forward and backward, under autocast if the dtype is not float32."""
    network.train(backward)
    x = torch.rand(shape, device=device)
    gradients: list[Tensor] = []

    def once() -> tuple | None:
        with nullcontext() if backward else torch.inference_mode(), autocast(device, dtype):
            out = network(x)
        if not backward:
            return None
        outs = [out] if isinstance(out, Tensor) else list(out)
        gradients.extend(torch.rand_like(each) for each in outs[len(gradients) :])
        return outs, gradients

    return Work(once, [network])


def text_of(shape: Sequence[int]) -> str:
    number, _, height, width = shape
    return f'batch {number} of {height}x{width}'


if __name__ == '__main__':
    run(main)
