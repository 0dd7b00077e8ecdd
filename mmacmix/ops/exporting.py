"""Whether operations are being recorded."""

import torch

from . import torch_versions


def is_recording() -> bool:
    """Whether an exporter, tracer or compiler is recording."""
    return is_exporting() or torch_versions.is_compiling()


def is_exporting() -> bool:
    """Whether an exporter or tracer is recording; these unroll loops over chunks and drop autograd functions."""
    return torch.jit.is_tracing() or torch_versions.is_exporting()
