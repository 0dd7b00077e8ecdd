"""Tensors that depend on nothing but sizes, computed once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

from .exporting import are_numbers, is_exporting, is_recording
from .torch_versions import is_transforming, without_modes

# Those of a few image sizes: 800 x 1344 pixels take 7 MB in all, and a training with random sizes sees hundreds.
_MOST_SIZES = 32

_recorded: dict[tuple, Any] | None = None  # in the context `constants_recorded_once`


def constant(build: Callable[..., Any]) -> Callable[..., Any]:
    """Cache the tensors that ``build(device, *arguments)`` makes, from hashable arguments.

    The decorated function takes a tensor on the device instead of the device. Nothing is cached while an exporter or
    compiler is recording or the tensor is fake, nor while a CUDA graph is captured, which needs tensors of its own, nor
    within ``torch.func``, which wraps tensors. Exporters get the numbers instead of their computation if the sizes are
    known. Each CUDA stream has its own tensors: another stream might use them before they are computed.
    Tensors should be made on the device: a copy from the host would block.
    """

    @lru_cache(maxsize=_MOST_SIZES)
    def cached(device: torch.device, stream: torch.Stream | None, *arguments: Any) -> Any:
        return build(device, *arguments)

    @wraps(build)
    def build_once(like: Tensor, *arguments: Any) -> Any:
        # torch.jit.trace would record the computation the first time only, and its check traces twice.
        if is_exporting() and not torch.jit.is_tracing() and are_numbers(arguments):
            with without_modes():
                return cached(like.device, _stream(like.device), *arguments)
        if _recorded is not None:
            key = build, str((like.device, arguments))  # symbolic sizes have no hash
            if key not in _recorded:
                _recorded[key] = build(like.device, *arguments)
            return _recorded[key]
        is_fake = is_recording() or type(like.new_empty(0)) is not Tensor
        if is_fake or is_transforming() or _is_capturing(like.device):
            return build(like.device, *arguments)
        with torch.inference_mode(False):  # training may use them later
            return cached(like.device, _stream(like.device), *arguments)

    build_once.cache_clear = cached.cache_clear
    return build_once


@contextmanager
def constants_recorded_once() -> Iterator[None]:
    """A context for one export, in which the computation from symbolic sizes is recorded once for equal sizes."""
    global _recorded
    _recorded = {}
    try:
        yield
    finally:
        _recorded = None


def _is_capturing(device: torch.device) -> bool:
    return _is_in_use(device) and torch.cuda.is_current_stream_capturing()


def _stream(device: torch.device) -> torch.Stream | None:
    return torch.cuda.current_stream(device) if _is_in_use(device) else None


def _is_in_use(device: torch.device) -> bool:
    return device.type == 'cuda' and torch.cuda.is_initialized()
