"""Attention windows on a map with reflected borders."""

import math

import torch
from torch import Tensor


def reflect(positions: Tensor, length: int) -> Tensor:
    """Fold integer positions into ``[0, length)`` by reflection at the first and last element.

    As ``numpy.pad(mode='reflect')``: the border element is not repeated, positions more than one axis
    length outside are reflected again, and an axis of length 1 repeats its only element.
    """
    # A tensor, because length may be symbolic during export; clamped, because length 1 has period 0.
    period = torch.full_like(positions, 2 * (length - 1)).clamp(min=1)
    folded = positions % period
    return torch.minimum(folded, period - folded)


def window_positions(
    queries: int, kernel_size: int, stride: int, dilation: int, device: torch.device | None = None
) -> Tensor:
    """Positions in each query's window along one axis, before reflection: ``(queries, kernel_size)``."""
    offsets = (torch.arange(kernel_size, device=device) - kernel_size // 2) * dilation
    return torch.arange(queries, device=device)[:, None] * stride + offsets


def gather_reflected(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``(B, heads, d, H, W)`` -> ``(B, heads, d, *rows.shape, *columns.shape)``, for matrices of positions."""
    for dim, positions in ((3, rows), (5, columns)):  # the rows' two axes have moved W from 4 to 5
        indices = reflect(positions, maps.shape[dim]).to(maps.device)
        maps = maps.index_select(dim, indices.flatten()).unflatten(dim, positions.shape)
    return maps


def residues_and_step(stride: int, dilation: int) -> tuple[int, int]:
    """Number of residues of ``query * stride`` modulo the dilation, and keys from query to query of a residue."""
    common = math.gcd(stride, dilation)
    return dilation // common, stride // common
