"""Neighbourhood attention, short and obvious: the truth that the other backends are compared with."""

import torch
from torch import Tensor

from .borders import reflect, window_positions


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Copies every query's window out of the key and value maps; memory grows with ``kernel_size ** 2``."""
    keys = _windows(key, query, kernel_size, stride, dilation)
    values = _windows(value, query, kernel_size, stride, dilation)
    # float16 and bfloat16 are too coarse for a sum of exponentials, and float16 overflows before it.
    precise = torch.promote_types(query.dtype, torch.float32)
    logits = torch.einsum('bndyx,bndyixj->bnyxij', query.to(precise), keys.to(precise)) * query.shape[2] ** -0.5
    weights = logits.flatten(-2).softmax(-1).view_as(logits).to(values.dtype)
    return torch.einsum('bnyxij,bndyixj->bndyx', weights, values)


def _windows(maps: Tensor, query: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """``(B, heads, head_dim, H, W)`` -> ``(B, heads, head_dim, queries_y, k, queries_x, k)``."""
    for dim, axis in ((3, 3), (5, 4)):  # the axis of x has moved behind the window's own axis by then
        positions = reflect(window_positions(query.shape[axis], kernel_size, stride, dilation), maps.shape[dim])
        maps = maps.index_select(dim, positions.flatten().to(maps.device)).unflatten(dim, positions.shape)
    return maps
