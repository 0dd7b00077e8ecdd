"""Neighbourhood attention, short and obvious: the truth that the other backends are compared with."""

import torch
from torch import Tensor

from ..borders import reflect, window_positions


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Copies every query's window out of the key and value maps; memory grows with ``kernel_size ** 2``."""
    # float16 and bfloat16 are too coarse for a sum of exponentials, and float16 overflows before it.
    precise = [maps.to(torch.promote_types(maps.dtype, torch.float32)) for maps in (query, key, value)]
    queries, (keys, values) = precise[0], (_windows(maps, query, kernel_size, stride, dilation) for maps in precise[1:])
    logits = torch.einsum('bndyx,bndyixj->bnyxij', queries, keys) * query.shape[2] ** -0.5
    weights = logits.flatten(-2).softmax(-1).view_as(logits)
    return torch.einsum('bnyxij,bndyixj->bndyx', weights, values).to(query.dtype)


def _windows(maps: Tensor, query: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """``(B, heads, head_dim, H, W)`` -> ``(B, heads, head_dim, queries_y, k, queries_x, k)``."""
    for dim, axis in ((3, 3), (5, 4)):  # the axis of x has moved behind the window's own axis by then
        positions = reflect(window_positions(query.shape[axis], kernel_size, stride, dilation), maps.shape[dim])
        maps = maps.index_select(dim, positions.flatten().to(maps.device)).unflatten(dim, positions.shape)
    return maps
