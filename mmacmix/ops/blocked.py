"""Neighbourhood attention as dense matrix products over strips of the map; any device.

The map is cut into vertical strips a few queries wide. For each strip the keys that any of its queries can see
(the strip and its halo) are laid out row after row, so that the keys of *one row of queries*, ``kernel_size`` rows
of the strip, are one contiguous piece of memory. The key matrices of successive query rows overlap; they are views of
the same memory, and keys are copied less than twice instead of ``kernel_size ** 2`` times. A strip's row of queries
is scored against all the keys of its piece in one matrix product; a mask removes the keys outside each query's window.

The work goes through in chunks whose scores fit the processor's cache, and backward computes the scores again instead
of keeping them: a training step keeps the query, key, value and output maps and nothing else.

Names of axes: ``T`` strips, ``R`` rows of queries, ``S`` queries of a strip's row, ``K`` keys of a query row.
"""

from functools import lru_cache
from itertools import product
from typing import Iterator, NamedTuple, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .borders import reflect, window_positions

_STRIP = 8  # queries; a wider strip has fewer copies, a narrower one fewer keys to mask
_CHUNK = 1 << 16  # scores


def neighborhood_attention(query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int,
                           dilation: int) -> Tensor:
    """See :func:`mmacmix.ops.neighborhood_attention`. float16 and bfloat16 are computed in float32."""
    return _BlockedAttention.apply(query, key, value, kernel_size, stride, dilation)


class _Strips(NamedTuple):
    """How a map is cut."""
    count: int  # strips
    width: int  # queries of a strip's row
    rows: int  # rows of queries
    columns: int  # key columns that a strip sees
    kernel_size: int
    stride: int
    dilation: int
    pixels: Tensor  # (T * key rows * columns,) flat index into the map, reflected at its borders
    mask: Tensor  # (S, K) added to the scores: 0 where the query's window holds the key, else -inf


@lru_cache(maxsize=64)
def _cut(height: int, width: int, rows: int, queries: int, kernel_size: int, stride: int, dilation: int,
         device: torch.device, dtype: torch.dtype) -> _Strips:
    count = -(-queries // _STRIP)
    strip = -(-queries // count)
    seen = [reflect(positions, length) for positions, length in (
        (_span(0, rows, kernel_size, stride, dilation), height),
        (torch.stack([_span(t * strip, strip, kernel_size, stride, dilation) for t in range(count)]), width))]
    key_rows, key_columns = seen
    pixels = key_rows[:, None] * width + key_columns[:, None, :]
    columns = key_columns.shape[1]
    inside = torch.zeros(strip, columns, dtype=torch.bool)
    window = window_positions(strip, kernel_size, stride, dilation) + kernel_size // 2 * dilation
    inside.scatter_(1, window, True)
    mask = torch.zeros(strip, columns, dtype=dtype).masked_fill_(~inside, float('-inf'))
    return _Strips(count, strip, rows, columns, kernel_size, stride, dilation,
                   pixels.flatten().to(device), mask.repeat(1, kernel_size).to(device))


def _span(first: int, queries: int, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """All positions from the first to the last that a run of queries sees along one axis."""
    reach = kernel_size // 2 * dilation
    return torch.arange(first * stride - reach, (first + queries - 1) * stride + reach + 1)


class _BlockedAttention(torch.autograd.Function):

    @staticmethod
    def forward(ctx, query, key, value, kernel_size, stride, dilation):
        dtype = torch.promote_types(query.dtype, torch.float32)
        strips = _cut(*key.shape[3:], *query.shape[3:], kernel_size, stride, dilation, query.device, dtype)
        queries = _queries(query.to(dtype), strips)
        keys, values = (_windows(_lay_out(maps.to(dtype), strips), strips) for maps in (key, value))
        output = torch.empty_like(queries)
        for chunk in _chunks(queries.shape[:4], strips.mask.numel()):
            weights = _weights(queries[chunk], keys[chunk], strips)
            output[chunk] = torch.bmm(weights, _matrices(values[chunk])).view_as(output[chunk])
        output = _to_map(output, query)
        ctx.save_for_backward(query, key, value, output)
        ctx.strips = strips
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        query, key, value, output = ctx.saved_tensors
        strips, dtype = ctx.strips, ctx.strips.mask.dtype
        # d score = weight * (d weight - sum of weight * d weight); the sum is output . d output
        inner = _queries((grad_output.to(dtype) * output).sum(2, keepdim=True), strips)
        queries, grad_outputs = _queries(query.to(dtype), strips), _queries(grad_output.to(dtype), strips)
        key_grid, value_grid = _lay_out(key.to(dtype), strips), _lay_out(value.to(dtype), strips)
        grad_grids = torch.zeros_like(key_grid), torch.zeros_like(value_grid)
        keys, values, grad_keys, grad_values = (_windows(g, strips) for g in (key_grid, value_grid, *grad_grids))
        grad_queries = torch.empty_like(queries)
        scale = query.shape[2]**-0.5
        for chunk in _chunks(queries.shape[:4], strips.mask.numel()):
            q, k, g = _matrices(queries[chunk]), _matrices(keys[chunk]), _matrices(grad_outputs[chunk])
            weights = _weights(queries[chunk], keys[chunk], strips)
            scores = torch.bmm(g, _matrices(values[chunk]).mT)
            scores.sub_(_matrices(inner[chunk])).mul_(weights)
            grad_queries[chunk] = torch.bmm(scores, k).mul_(scale).view_as(grad_queries[chunk])
            _add_windows(grad_keys[chunk], torch.bmm(scores.mT, q).mul_(scale))
            _add_windows(grad_values[chunk], torch.bmm(weights.mT, g))
        return (_to_map(grad_queries, query), *(_gather_back(g, maps, strips)
                                                for g, maps in zip(grad_grids, (key, value))), None, None, None)


def _queries(maps: Tensor, strips: _Strips) -> Tensor:
    """``(B, heads, d, R, W)`` -> a view ``(B, T, heads, R, S, d)`` of the map (of its copy where W is ragged)."""
    maps = F.pad(maps.permute(0, 3, 4, 1, 2), (0, 0, 0, 0, 0, strips.count * strips.width - maps.shape[4]))
    return maps.contiguous().unflatten(2, (strips.count, strips.width)).permute(0, 2, 4, 1, 3, 5)


def _to_map(queries: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`_queries`, in the shape and dtype of ``like``."""
    maps = queries.permute(0, 3, 1, 4, 2, 5).flatten(2, 3)[:, :, :like.shape[4]]
    return maps.permute(0, 3, 4, 1, 2).to(like.dtype)


def _lay_out(maps: Tensor, strips: _Strips) -> Tensor:
    """``(B, heads, d, H, W)`` -> ``(B, T, key rows, columns, heads, d)``, contiguous."""
    batch, heads, channels = maps.shape[:3]
    pixels = maps.permute(0, 3, 4, 1, 2).reshape(batch, -1, heads * channels)
    return pixels.index_select(1, strips.pixels).view(batch, strips.count, -1, strips.columns, heads, channels)


def _gather_back(grid: Tensor, like: Tensor, strips: _Strips) -> Tensor:
    """The adjoint of :func:`_lay_out`: every pixel gets the sum of its copies."""
    batch, heads, channels, height, width = like.shape
    pixels = grid.new_zeros(batch, height * width, heads * channels)
    pixels.index_add_(1, strips.pixels, grid.view(batch, -1, heads * channels))
    return pixels.view(batch, height, width, heads, channels).permute(0, 3, 4, 1, 2).to(like.dtype)


def _windows(grid: Tensor, strips: _Strips) -> Tensor:
    """The keys of every query row: an overlapping view ``(B, T, heads, R, kernel_size, columns, d)`` of the grid."""
    batch, strip, row, column, head, channel = grid.stride()
    return grid.as_strided(
        (grid.shape[0], strips.count, grid.shape[4], strips.rows, strips.kernel_size, strips.columns, grid.shape[5]),
        (batch, strip, head, row * strips.stride, row * strips.dilation, column, channel))


def _add_windows(windows: Tensor, matrices: Tensor) -> None:
    """Add to overlapping windows; those of one window row do not overlap each other."""
    matrices = matrices.view(windows.shape)
    for row in range(windows.shape[4]):
        windows[:, :, :, :, row] += matrices[:, :, :, :, row]


def _matrices(blocks: Tensor) -> Tensor:
    """``(B, T, heads, R, ..., d)`` -> one batch of matrices over d; a view where only R is longer than 1."""
    return blocks.reshape(blocks.shape[:4].numel(), -1, blocks.shape[-1])


def _weights(queries: Tensor, keys: Tensor, strips: _Strips) -> Tensor:
    """Attention weights ``(query rows, S, K)``."""
    scores = torch.baddbmm(strips.mask, _matrices(queries), _matrices(keys).mT, alpha=queries.shape[-1]**-0.5)
    return scores.softmax(-1)


def _chunks(shape: Sequence[int], scores: int) -> Iterator[Tuple[slice, ...]]:
    """Slices of the axes ``(B, T, heads, R)`` that hold about ``_CHUNK`` scores each, ``scores`` a query row."""
    steps, room = [], max(1, _CHUNK // scores)
    for length in reversed(shape):
        steps.append(min(length, room))
        room = max(1, room // length)
    ranges = [[slice(i, i + step) for i in range(0, length, step)] for length, step in zip(shape, reversed(steps))]
    return product(*ranges)
