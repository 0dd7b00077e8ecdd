"""Whether operations are being recorded."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from . import torch_versions


def is_recording() -> bool:
    """Whether an exporter, tracer or compiler is recording."""
    return is_exporting() or torch_versions.is_compiling()


def is_exporting() -> bool:
    """Whether an exporter or tracer is recording; these unroll loops over chunks and drop autograd functions."""
    return torch.jit.is_tracing() or torch_versions.is_exporting()


def are_numbers(values: Iterable[Any]) -> bool:
    """Whether no value, also in nested tuples, is a size that stands for several, as exporters and compilers have them.

    Those of compilers look like numbers, but may not be compared with any.
    """
    symbolic = torch.SymInt, Tensor  # of torch.export and of torch.jit.trace
    return not torch_versions.is_dynamo_compiling() and not any(
        isinstance(each, symbolic) or (isinstance(each, tuple) and not are_numbers(each)) for each in values
    )
