"""Whether operations are being recorded."""

import torch


def is_exporting() -> bool:
    """Whether an exporter or tracer is recording; these unroll loops over chunks and drop autograd functions."""
    exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)  # torch 2.6 lacks is_exporting
    return torch.jit.is_tracing() or exporting()
