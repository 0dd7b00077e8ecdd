"""Checks of the operator and the layers on a device against float64 on the CPU, and a runner for such checks."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from itertools import product
from typing import NamedTuple
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from ..errors import first_line
from ..layers import LESA, ACmix, WindowACmix, XVolution
from ..ops import available_backends, ceil_div, neighborhood_attention
from ..ops.backends import choice
from .measurement import autocast

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
# Of the largest error relative to the largest exact value, as docs/backends.md states for the operator.
OPERATOR_BOUNDS = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
LAYER_BOUNDS = {torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
AUTOCAST_BOUNDS = {torch.float16: 4e-3, torch.bfloat16: 3e-2}  # weights are rounded, too
HEAD_DIMS = 16, 64, 128
KERNEL_SIZE = 7

#: Layers with 64 channels, and the shapes of their inputs.
LAYERS = {
    'ACmix': (lambda: ACmix(64, 64), (2, 64, 17, 13)),
    'ACmix, stride 2': (lambda: ACmix(64, 64, stride=2), (2, 64, 17, 13)),
    'WindowACmix': (lambda: WindowACmix(64, 4, shift_size=3), (2, 17, 13, 64)),
    'XVolution': (lambda: XVolution(64, 64), (2, 64, 17, 13)),
    'LESA': (lambda: LESA(64, 64), (2, 64, 17, 13)),
}


class Finding(NamedTuple):
    """What a check that passed found."""

    detail: str
    numbers: dict = {}  # for machines


class Row(NamedTuple):
    """The outcome of a check."""

    check: str
    result: str  # 'passed', 'failed' or 'skipped'
    detail: str
    numbers: dict = {}


class Skipped(Exception):
    """Raised by a check that cannot run; the message is the reason."""


class Failed(Exception):
    """Raised by a check that found a mistake.

    Args:
        message: The mistake, in one sentence.
        numbers: What was measured nevertheless.
    """

    def __init__(self, message: str, numbers: Mapping = {}) -> None:
        super().__init__(message)
        self.numbers = dict(numbers)


Check = Callable[[], Finding]


def run_checks(checks: Mapping[str, Check]) -> Iterator[Row]:
    """Run checks one after another, each with the same seed. An exception ends only its own check."""
    for name, check in checks.items():
        print(f'{name} ...', file=sys.stderr, flush=True)
        torch.manual_seed(0)
        try:
            row = Row(name, 'passed', *check())
        except Skipped as reason:
            row = Row(name, 'skipped', first_line(reason))
        except Failed as failure:
            row = Row(name, 'failed', first_line(failure), failure.numbers)
        except Exception as error:  # whatever a compiler, driver or GPU may raise
            row = Row(name, 'failed', f'{type(error).__name__}: {first_line(error)}')
        yield row


def numerical_checks(device: torch.device, quick: bool) -> dict[str, Check]:
    """The checks of the operator and the layers.

    Args:
        device: The device to check.
        quick: Use fewer and smaller maps.
    """
    cases = _cases(quick)
    checks = {f'auto, {name}': lambda dtype=dtype: check_choice(device, dtype) for name, dtype in DTYPES.items()}
    for name, dtype in DTYPES.items():
        for backend in available_backends(device):
            checks[f'operator, {backend}, {name}'] = lambda dtype=dtype, backend=backend: check_operator(
                device, dtype, backend, cases
            )
    for (layer, (build, shape)), (name, dtype) in product(LAYERS.items(), DTYPES.items()):
        checks[f'layer, {layer}, {name}'] = lambda build=build, shape=shape, dtype=dtype: check_layer(
            device, dtype, build, shape
        )
    for layer, (build, shape) in LAYERS.items():
        checks[f'layer, {layer}, autocast to bfloat16'] = lambda build=build, shape=shape: check_layer(
            device, torch.float32, build, shape, torch.bfloat16
        )
    return checks


@contextmanager
def precise_float32() -> Iterator[None]:
    """A context without TF32, with deterministic convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before


def relative_error(actual: Tensor, exact: Tensor, scale: float | None = None) -> float:
    """The largest absolute difference, relative to ``scale`` or the largest absolute exact value."""
    scale = exact.abs().max().item() if scale is None else scale
    return (actual.detach().cpu().double() - exact).abs().max().item() / scale


def check_choice(device: torch.device, dtype: torch.dtype) -> Finding:
    """Whether ``auto`` chooses the Triton kernels wherever they should serve."""
    chosen, messages = {}, []
    window = KERNEL_SIZE, 1, 1
    for head_dim in HEAD_DIMS:
        with catch_warnings(record=True) as caught:
            simplefilter('always')
            chosen[head_dim] = choice.choose(device, dtype, head_dim, window)
        expected = choice.runs_kernels(device) and _supports('triton', head_dim, dtype, window)
        if expected and chosen[head_dim] == 'tiles':
            reasons = [str(each.message) for each in caught] or [f"'tiles' is chosen for head_dim {head_dim}"]
            messages.append(reasons[0])
    if messages:
        raise Failed(messages[0], chosen)
    names = ', '.join(f'{name} for head_dim {head_dim}' for head_dim, name in chosen.items())
    return Finding(names if len(set(chosen.values())) > 1 else chosen[HEAD_DIMS[0]], chosen)


class _Case(NamedTuple):
    size: tuple[int, int]
    head_dim: int
    stride: int
    dilation: int

    def __str__(self) -> str:
        height, width = self.size
        return f'{height}x{width}, head_dim {self.head_dim}, stride {self.stride}, dilation {self.dilation}'


def _cases(quick: bool) -> list[_Case]:
    """All windows with some sizes, and more sizes with the usual window, because each window compiles kernels."""
    sizes = [(5, 4), (12, 9)] if quick else [(5, 4), (23, 31)]
    cases = [_Case(*each) for each in product(sizes, HEAD_DIMS, (1, 2), (1, 2))]
    return cases + [_Case(size, head_dim, 1, 1) for size in [(1, 9), (16, 40)] for head_dim in HEAD_DIMS if not quick]


def check_operator(device: torch.device, dtype: torch.dtype, backend: str, cases: list[_Case]) -> Finding:
    """Output and gradients of a backend against the reference in float64 on the CPU."""
    _check_float16(device, dtype)
    names = 'output', 'gradient of the query', 'gradient of the key', 'gradient of the value'
    largest, unsupported, bound = 0.0, 0, OPERATOR_BOUNDS[dtype]
    for case in cases:
        window = KERNEL_SIZE, case.stride, case.dilation
        if not _supports(backend, case.head_dim, dtype, window):
            unsupported += 1
            continue
        maps, weight, truths = _truths(dtype, case)
        maps = [each.to(device).requires_grad_() for each in maps]
        with precise_float32():
            out = neighborhood_attention(*maps, *window, backend)
            results = out, *torch.autograd.grad(out, maps, weight.to(device))
        for name, result, truth in zip(names, results, truths, strict=True):
            error = relative_error(result, truth)
            if not error <= bound:  # also if it is NaN
                raise Failed(f'the {name} has an error of {error:.1e}, above {bound:.0e}, for {case}')
            largest = max(largest, error)
    if unsupported == len(cases):
        raise Skipped(f'{backend} supports none of the cases')
    detail = f'{len(cases) - unsupported} cases, largest error {largest:.1e}; bound {bound:.0e}'
    return Finding(detail + (f'; {unsupported} not supported' if unsupported else ''), dict(error=largest))


@lru_cache(maxsize=64)
def _truths(dtype: torch.dtype, case: _Case) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Maps and the gradient of the output, rounded to a dtype, and exact results for them."""
    numbers = torch.Generator().manual_seed(0)
    few = [ceil_div(side, case.stride) for side in case.size]
    query, key, value, weight = (
        torch.randn(2, 2, case.head_dim, *size, generator=numbers).to(dtype)
        for size in (few, case.size, case.size, few)
    )
    maps = [query, key, value]
    exact = [each.double().requires_grad_() for each in maps]
    out = neighborhood_attention(*exact, KERNEL_SIZE, case.stride, case.dilation, 'reference')
    gradients = torch.autograd.grad(out, exact, weight.double())
    return maps, weight, [out.detach(), *gradients]


def check_layer(
    device: torch.device,
    dtype: torch.dtype,
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    autocast_to: torch.dtype | None = None,
) -> Finding:
    """Output and gradients of a layer against the same layer in float64 on the CPU.

    Batch normalisation uses its running statistics: those of the batch make gradients ill-conditioned.

    Args:
        device: The device to check.
        dtype: Of the layer and its input.
        build: Makes the layer.
        shape: Of the input.
        autocast_to: The dtype of autocast, or None. Default: None.
    """
    _check_float16(device, dtype)
    layer, x = build().eval().to(dtype), torch.randn(shape).to(dtype)
    with precise_float32():
        exact = deepcopy(layer).double()
        truth = exact(x.double())
        weight = torch.randn(truth.shape).to(dtype)
        truth.backward(weight.double())
        layer.to(device)
        with autocast(device, autocast_to or torch.float32):
            out = layer(x.to(device))
        out.backward(weight.to(device, out.dtype))
    # Some exact gradients are zero, because a softmax cancels them: all errors are relative to the largest gradient.
    gradients = dict(exact.named_parameters())
    largest = max(each.grad.abs().max().item() for each in gradients.values())
    errors = {'output': relative_error(out, truth.detach())} | {
        f'gradient of {name}': relative_error(parameter.grad, gradients[name].grad, largest)
        for name, parameter in layer.named_parameters()
    }
    bound = AUTOCAST_BOUNDS[autocast_to] if autocast_to else LAYER_BOUNDS[dtype]
    for name, error in errors.items():
        if not error <= bound:  # also if it is NaN
            raise Failed(f'the {name} has an error of {error:.1e}, above {bound:.0e}', errors)
    of_gradients = max(error for name, error in errors.items() if name != 'output')
    return Finding(f'errors: output {errors["output"]:.1e}, gradients {of_gradients:.1e}; bound {bound:.0e}', errors)


def _supports(backend: str, head_dim: int, dtype: torch.dtype, window: tuple[int, int, int]) -> bool:
    return backend != 'triton' or choice.supports(dtype, head_dim, window)


def _check_float16(device: torch.device, dtype: torch.dtype) -> None:
    if device.type == 'cpu' and dtype == torch.float16 and torch.__version__ < '2.13':
        raise Skipped('float16 on CPUs needs torch 2.13')
