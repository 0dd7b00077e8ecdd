"""The sum that patchwise self-attention ends in (Zhao et al., "Exploring Self-attention for Image Recognition")."""

import torch
from torch import Tensor

from .borders import reflect


def windows(x: Tensor, kernel_size: int) -> list[Tensor]:
    """The map as each place of a window sees it, ``kernel_size ** 2`` views of ``(B, C, H, W)``; borders reflect."""
    height, width = x.shape[2:]
    reach = kernel_size // 2
    rows, columns = (reflect(torch.arange(-reach, side + reach, device=x.device), side) for side in (height, width))
    padded = x[:, :, rows][..., columns]
    return [
        padded[..., row : row + height, column : column + width]
        for row in range(kernel_size)
        for column in range(kernel_size)
    ]


def aggregate(value: Tensor, weights: Tensor, kernel_size: int) -> Tensor:
    """Sum each pixel's window of ``value`` with weights of its own; borders are reflected.

    Args:
        value: ``(B, C, H, W)``.
        weights: ``(B, G, kernel_size^2, H, W)``; channel c has those of index ``c % G``. G divides C.
        kernel_size: Side of the window, odd.

    Returns:
        ``(B, C, H, W)``.
    """
    groups = weights.shape[1]
    return sum(
        seen.unflatten(1, (-1, groups)) * weight[:, None]
        for seen, weight in zip(windows(value, kernel_size), weights.unbind(2), strict=True)
    ).flatten(1, 2)
