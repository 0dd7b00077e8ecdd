"""Neighbourhood attention in operations that every exporter supports, for maps of any size; slower than ``blocked``.

As in ``blocked``, the map is cut into strips, here of a fixed width: each row of a strip's queries is scored against
the keys that any of them can see, gathered by index, and a mask removes the keys outside each query's window. With
dilation, each strip is a single query wide.
"""

import torch
from torch import Tensor

from ..borders import gather_reflected, outside_window, window_positions
from ..sizes import ceil_div

_STRIP = 8  # queries


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """See ``mmacmix.ops.neighborhood_attention``."""
    strip = _STRIP if dilation == 1 else 1
    height, width = query.shape[3:]
    strips = ceil_div(width, strip) + 1  # never 1: exporters specialise on that size
    rows = window_positions(height, kernel_size, stride, dilation)  # (H, k)
    seen = (strip - 1) * stride + kernel_size  # keys per row of a strip with its halo
    first = torch.arange(strips)[:, None] * (strip * stride) - kernel_size // 2 * dilation
    columns = first + torch.arange(seen) * dilation  # (strips, seen)
    # (B, heads, d, H, k, strips, seen) -> (B, heads, H, strips, k * seen, d)
    keys, values = (
        gather_reflected(maps, rows, columns).permute(0, 1, 3, 5, 4, 6, 2).flatten(4, 5) for maps in (key, value)
    )
    # Indexing instead of padding and slicing, whose sizes an exporter would guard on.
    indices = torch.arange(strips * strip, device=query.device).clamp(max=width - 1)
    queries = query.index_select(4, indices).unflatten(4, (strips, strip))
    queries = queries.permute(0, 1, 3, 4, 5, 2)  # (B, heads, H, strips, strip, d)

    hidden = outside_window(strip, seen, stride, kernel_size).repeat(1, kernel_size).to(query.device)
    precise = torch.promote_types(query.dtype, torch.float32)
    scores = queries.to(precise) @ keys.to(precise).transpose(-1, -2) * query.shape[2] ** -0.5
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).to(value.dtype)
    out = (weights @ values).permute(0, 1, 5, 2, 3, 4).flatten(4)
    return out.index_select(4, torch.arange(width, device=query.device))
