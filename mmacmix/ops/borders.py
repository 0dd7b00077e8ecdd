"""Which pixels a window sees when it reaches over the border of the map."""

import torch
from torch import Tensor


def reflect(positions: Tensor, length: int) -> Tensor:
    """Fold integer positions into ``[0, length)`` by reflection at the first and last element.

    As ``numpy.pad(mode='reflect')``: the border element is not repeated, positions further out than the
    axis is long are reflected again, and an axis of length 1 repeats its only element.
    """
    # As a tensor, since an exporter may leave the length open. An axis of length 1 has no period but 0.
    period = torch.full_like(positions, 2 * (length - 1)).clamp(min=1)
    folded = positions % period
    return torch.minimum(folded, period - folded)


def window_positions(queries: int, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """Positions along one axis that each query's window covers, borders ignored: ``(queries, kernel_size)``."""
    offsets = (torch.arange(kernel_size) - kernel_size // 2) * dilation
    return torch.arange(queries)[:, None] * stride + offsets
