"""Neighbourhood attention written for clarity: the reference that tests compare the other backends with."""

import torch
from torch import Tensor

from ..borders import gather_reflected, window_positions


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """Copies the window of each query out of the key and value maps; memory grows with ``kernel_size ** 2``."""
    # The softmax needs at least float32: narrower types lose precision in the sum, and float16 overflows.
    precise = torch.promote_types(query.dtype, torch.float32)
    rows, columns = (window_positions(side, kernel_size, stride, dilation) for side in query.shape[3:])
    keys, values = (gather_reflected(maps.to(precise), rows, columns) for maps in (key, value))
    logits = torch.einsum('bndyx,bndyixj->bnyxij', query.to(precise), keys) * query.shape[2] ** -0.5
    weights = logits.flatten(-2).softmax(-1).view_as(logits)
    return torch.einsum('bnyxij,bndyixj->bndyx', weights, values).to(query.dtype)
