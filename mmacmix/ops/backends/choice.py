"""Which backend ``'auto'`` stands for: the Triton kernels on GPUs where they have proved right, else the tiles."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from threading import Lock
from types import ModuleType

import torch

from ...errors import first_line
from ..torch_versions import assume_constant_result, is_transforming
from .kernel_check import failure_of

#: Names of all backends.
BACKENDS = ('tiles', 'triton', 'reference')
TRITON_TORCH = '2.4'  # torch.library.custom_op
HAS_TRITON = find_spec('triton') is not None and torch.__version__ >= TRITON_TORCH
_ENVIRONMENT_VARIABLE = 'MMACMIX_BACKEND'

_override = os.environ.get(_ENVIRONMENT_VARIABLE, 'auto')
_failures: dict[tuple, str | None] = {}  # why the kernels are not used, or None, for each case that was checked
_lock = Lock()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """A context in which ``'auto'`` stands for one backend, for all threads: contexts of two threads must not overlap.

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
    with them and compared with ``reference``. If it fails, a warning says so once, and the tiles serve for the rest of
    the process. Processes decide separately, without communication.

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
    # torch.func would transform the check.
    if is_transforming() or not (runs_kernels(device) and supports(dtype, head_dim, window)):
        return 'tiles'
    # The setting of TF32 selects other kernels.
    case = str(device), dtype, head_dim, window, _kernels().float32_precision() if dtype == torch.float32 else None
    with _lock:
        if case not in _failures:
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    'the backend of neighborhood_attention is chosen when it first runs: run the network once before '
                    'capturing a CUDA graph'
                )
            _failures[case] = failure = failure_of(_kernels(), device, dtype, head_dim, window)
            if failure:
                warnings.warn(_warning(device, dtype, head_dim, window, failure), stacklevel=3)
    return 'tiles' if _failures[case] else 'triton'


def runs_kernels(device: torch.device) -> bool:
    """Whether ``'auto'`` considers the Triton kernels on a device: NVIDIA GPUs of compute capability 8.0 and newer."""
    if not (HAS_TRITON and device.type == 'cuda' and torch.cuda.is_available()) or torch.version.hip:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


@assume_constant_result
def supports(dtype: torch.dtype, head_dim: int, window: tuple[int, int, int]) -> bool:
    """Whether the Triton kernels can be imported and have enough shared memory for these maps."""
    kernels = _kernels()
    return kernels is not None and kernels.supports(head_dim, dtype, *window)


@lru_cache
def _kernels() -> ModuleType | None:
    """The module of the kernels. If Triton is installed and cannot be imported, a warning says why."""
    if not HAS_TRITON:
        return None
    try:
        from . import triton_kernels
    except Exception as error:  # whatever a broken installation may raise
        warnings.warn(
            f"The backend 'triton' cannot be imported: {type(error).__name__}: {first_line(error)}", stacklevel=4
        )
        return None
    return triton_kernels


def _warning(
    device: torch.device, dtype: torch.dtype, head_dim: int, window: tuple[int, int, int], failure: str
) -> str:
    rank = os.environ.get('RANK')
    where = torch.cuda.get_device_name(device) + (f', rank {rank}' if rank else '')
    return (
        f'The Triton kernels of neighborhood_attention are not used on {where} for {dtype}, head_dim {head_dim} and '
        f"kernel size, stride and dilation {window}: {failure}. The backend 'tiles' gives the same results more slowly."
    )
