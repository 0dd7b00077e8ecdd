"""Neighbourhood attention in operations that every exporter knows, for maps of any size; slower than ``blocked``.

The same strips, of a fixed width: each row of a strip's queries is scored against the keys that any of them can see,
gathered by their indices, and a mask removes the keys outside each query's window. A dilated window has strips of a
single query.
"""

import torch
from torch import Tensor

from ..borders import reflect, window_positions

_STRIP = 8  # queries


def is_exporting() -> bool:
    """Whether an exporter or tracer looks on, which keeps neither loops over chunks nor functions of autograd."""
    exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)  # torch 2.6 has the latter alone
    return torch.jit.is_tracing() or exporting()


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """See ``mmacmix.ops.neighborhood_attention``."""
    strip = _STRIP if dilation == 1 else 1
    height, width = query.shape[3:]
    strips = (width + strip - 1) // strip + 1  # never 1, a length for which an exporter takes another way
    rows = window_positions(height, kernel_size, stride, dilation)  # (H, k)
    # Keys of a strip: those of its first query, and the further ones of the others.
    seen = (strip - 1) * stride + kernel_size
    first = torch.arange(strips)[:, None] * (strip * stride) - kernel_size // 2 * dilation
    columns = first + torch.arange(seen) * dilation  # (strips, seen)
    keys, values = (_gather(maps, rows, columns) for maps in (key, value))
    # Indices, where padding and slicing would make an exporter ask whether there is anything to pad or to slice off.
    places = torch.arange(strips * strip, device=query.device).clamp(max=width - 1)
    queries = query.index_select(4, places).unflatten(4, (strips, strip))
    queries = queries.permute(0, 1, 3, 4, 5, 2)  # (B, heads, H, strips, strip, d)

    ahead = torch.arange(seen) - torch.arange(strip)[:, None] * stride
    hidden = ((ahead < 0) | (ahead >= kernel_size)).repeat(1, kernel_size).to(query.device)
    precise = torch.promote_types(query.dtype, torch.float32)
    scores = queries.to(precise) @ keys.to(precise).transpose(-1, -2) * query.shape[2] ** -0.5
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).to(value.dtype)
    out = (weights @ values).permute(0, 1, 5, 2, 3, 4).flatten(4)
    return out.index_select(4, torch.arange(width, device=query.device))


def _gather(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``(B, heads, d, H, W)`` -> ``(B, heads, queries down, strips, k * seen, d)``."""
    for dim, positions in ((3, rows), (5, columns)):  # the axis of x has moved by then
        indices = reflect(positions, maps.shape[dim]).to(maps.device)
        maps = maps.index_select(dim, indices.flatten()).unflatten(dim, positions.shape)
    return maps.permute(0, 1, 3, 5, 4, 6, 2).flatten(4, 5)
