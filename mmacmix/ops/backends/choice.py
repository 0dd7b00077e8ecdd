"""Which backend ``'auto'`` stands for: the Triton kernels on GPUs where they have proved right, else the tiles."""

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Lock

import torch
from torch import Tensor

from ...errors import first_line
from ..coordinates import coordinate_map
from ..sizes import ceil_div
from ..torch_versions import assume_constant_result
from . import reference

#: Names of all backends.
BACKENDS = ('tiles', 'triton', 'reference')
TRITON_TORCH = '2.4'  # torch.library.custom_op
HAS_TRITON = find_spec('triton') is not None and torch.__version__ >= TRITON_TORCH
_ENVIRONMENT_VARIABLE = 'MMACMIX_BACKEND'
# Largest error relative to the largest value; float32 may be computed in TF32.
_TOLERANCES = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}

_override = os.environ.get(_ENVIRONMENT_VARIABLE, 'auto')
_failures: dict[tuple, str | None] = {}  # why the kernels are not used, or None, for each case that was checked
_lock = Lock()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """A context in which ``'auto'`` stands for one backend, for all threads.

    The environment variable ``MMACMIX_BACKEND`` does the same for a whole process.

    Args:
        name: ``'tiles'``, ``'triton'``, ``'reference'``, or ``'auto'`` to choose as usual.

    Raises:
        ValueError: The name is unknown.
    """
    global _override
    if name not in ('auto', *BACKENDS):
        raise ValueError(f"backend must be 'auto' or one of {BACKENDS}, got {name!r}")
    before, _override = _override, name
    try:
        yield
    finally:
        _override = before


@assume_constant_result  # for compilers: the choice is made before they record
def choose(device: torch.device, dtype: torch.dtype, head_dim: int, window: tuple[int, int, int]) -> str:
    """What ``'auto'`` stands for.

    The first time that a GPU gets maps of a dtype and size that the kernels should serve, a small case is computed
    with them and compared with ``reference``. If it fails, a warning says so once, and the tiles serve. Processes
    decide separately, without communication.

    Args:
        window: Kernel size, stride and dilation.

    Raises:
        ValueError: The environment variable ``MMACMIX_BACKEND`` is not the name of a backend.
        RuntimeError: A CUDA graph is being captured before the choice was made.
    """
    if _override != 'auto':
        if _override not in BACKENDS:
            raise ValueError(f"{_ENVIRONMENT_VARIABLE} must be 'auto' or one of {BACKENDS}, got {_override!r}")
        return _override
    if not (runs_kernels(device) and _kernels().supports(head_dim, dtype, *window)):
        return 'tiles'
    case = str(device), dtype, head_dim, window
    with _lock:
        if case not in _failures:
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    'the backend of neighborhood_attention is chosen when it first runs: run the network once before '
                    'capturing a CUDA graph'
                )
            _failures[case] = failure = _failure(device, dtype, head_dim, window)
            if failure:
                warnings.warn(_warning(device, case, failure), stacklevel=3)
    return 'tiles' if _failures[case] else 'triton'


def runs_kernels(device: torch.device) -> bool:
    """Whether ``'auto'`` considers the Triton kernels on a device: NVIDIA GPUs of compute capability 8.0 and newer."""
    if not (HAS_TRITON and device.type == 'cuda' and torch.cuda.is_available()) or torch.version.hip:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _kernels():
    from . import triton_kernels

    return triton_kernels


def _failure(device: torch.device, dtype: torch.dtype, head_dim: int, window: tuple[int, int, int]) -> str | None:
    """What is wrong with the kernels: the sentence of an exception or the largest error; None if nothing is."""
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            inputs, grad = _small_case(device, dtype, head_dim, window[1])
            names = 'output', 'query', 'key', 'value', 'query_bias', 'position', 'rate'
            results = [
                (output, *torch.autograd.grad(output, inputs, grad))
                for output in (attend(*inputs, window) for attend in (_by_kernels, _by_reference))
            ]
            for name, actual, expected in zip(names, *results, strict=True):
                error = ((actual - expected).abs().max() / expected.abs().max()).item()
                if not error <= _TOLERANCES[dtype]:  # also if it is NaN
                    part = name if name == 'output' else f'gradient of {name}'
                    return f'the {part} of a small case has an error of {error:.1e}'
    except Exception as error:  # whatever a compiler, driver or GPU may raise
        return f'{type(error).__name__}: {first_line(error)}'
    return None


def _small_case(device: torch.device, dtype: torch.dtype, head_dim: int, stride: int) -> tuple[list[Tensor], Tensor]:
    """Inputs with two heads and partial tiles, and a gradient; fixed numbers, so no random state changes."""
    size = 11, 19
    few = [ceil_div(side, stride) for side in size]
    shapes = (
        (1, 2, head_dim, *few),
        (1, 2, head_dim, *size),
        (1, 2, head_dim, *size),
        (2, head_dim),
        (head_dim, 2),
        (1,),
    )

    def numbers(shape: tuple[int, ...], phase: float) -> Tensor:
        angles = torch.arange(math.prod(shape), dtype=torch.float32, device=device) * 1.7 + phase
        return torch.sin(angles * angles % 1000).view(shape).to(dtype)

    inputs = [numbers(shape, phase).requires_grad_() for phase, shape in enumerate(shapes)]
    return inputs, numbers(shapes[0], 0.5)


def _by_kernels(query, key, value, query_bias, position, rate, window):
    return _kernels().neighborhood_attention(query, key, value, *window, query_bias, position, rate).float()


def _by_reference(query, key, value, query_bias, position, rate, window):
    query, key, value, query_bias, position, rate = (
        each.float() for each in (query, key, value, query_bias, position, rate)
    )
    query = query + query_bias[..., None, None]
    key = key - torch.einsum('dc,bcyx->bdyx', position, coordinate_map(key[:, 0]))[:, None]
    return rate * reference.neighborhood_attention(query, key, value, *window)


def _warning(device: torch.device, case: tuple, failure: str) -> str:
    _, dtype, head_dim, window = case
    rank = os.environ.get('RANK')
    where = torch.cuda.get_device_name(device) + (f', rank {rank}' if rank else '')
    return (
        f'The Triton kernels of neighborhood_attention are not used on {where} for {dtype}, head_dim {head_dim} and '
        f"kernel size, stride and dilation {window}: {failure}. The backend 'tiles' gives the same results more slowly."
    )
