"""Aggregation of patchwise self-attention (Zhao et al., "Exploring Self-attention for Image Recognition")."""

import torch
from torch import Tensor

from .borders import reflect


def windows(x: Tensor, kernel_size: int) -> list[Tensor]:
    """``(B, C, H, W)``, padded by reflection and shifted to each window position, in row-major order."""
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
    """Weighted sum over the window around each pixel; borders are reflected.

    Args:
        value: ``(B, C, H, W)``.
        weights: ``(B, G, kernel_size^2, H, W)`` with G a divisor of C; channel c uses the weights of group ``c % G``.
        kernel_size: Side of the window, odd.

    Returns:
        ``(B, C, H, W)``.
    """
    groups = weights.shape[1]
    return sum(
        view.unflatten(1, (-1, groups)) * weight[:, None]
        for view, weight in zip(windows(value, kernel_size), weights.unbind(2), strict=True)
    ).flatten(1, 2)
