"""Whether operations are being recorded."""

from collections.abc import Iterable
from typing import Any

import torch

from . import torch_versions


def is_recording() -> bool:
    """Whether an exporter, tracer or compiler is recording."""
    return is_exporting() or torch_versions.is_compiling()


def is_exporting() -> bool:
    """Whether an exporter or tracer is recording; these unroll loops over chunks and drop autograd functions."""
    return torch.jit.is_tracing() or torch_versions.is_exporting()


def are_numbers(sizes: Iterable[Any]) -> bool:
    """Whether no size stands for several: those of compilers look like numbers, but may not be compared with any."""
    return not torch_versions.is_dynamo_compiling() and all(isinstance(each, int) for each in sizes)
