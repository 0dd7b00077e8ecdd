"""Tensors that depend on nothing but sizes, computed once."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

from .exporting import is_exporting
from .torch_versions import is_compiling

# Those of a few image sizes: 800 x 1344 pixels take 7 MB in all, and a training with random sizes sees hundreds.
_MOST_SIZES = 32


def constant(build: Callable[..., Any]) -> Callable[..., Any]:
    """Cache the tensors that ``build(device, *arguments)`` makes, from hashable arguments.

    The decorated function takes a tensor on the device instead of the device. Nothing is cached while an exporter or
    compiler is recording or the tensor is fake, nor while a CUDA graph is captured, which needs tensors of its own.
    Tensors should be made on the device: a copy from the host would block.
    """
    cached = lru_cache(maxsize=_MOST_SIZES)(build)

    @wraps(build)
    def build_once(like: Tensor, *arguments: Any) -> Any:
        if is_exporting() or is_compiling() or type(like.new_empty(0)) is not Tensor or _is_capturing(like.device):
            return build(like.device, *arguments)
        with torch.inference_mode(False):  # training may use them later
            return cached(like.device, *arguments)

    build_once.cache_clear = cached.cache_clear
    return build_once


def _is_capturing(device: torch.device) -> bool:
    return device.type == 'cuda' and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
