"""Neighbourhood attention as dense matrix products over strips of the map; any device.

The map is cut into vertical strips a few queries wide. For each strip the keys that any of its queries can see
(the strip and its halo) are laid out row after row, so that the keys of *one row of queries*, ``kernel_size`` rows
of the strip, are one contiguous piece of memory: a matrix. The matrices of successive query rows overlap, as views of
the same memory, so keys are copied less than twice instead of ``kernel_size ** 2`` times. A row of queries is scored
against its matrix in one product; a mask removes the keys outside each query's window.

All strips of all heads and images are stacked into one long strip. The rows at a seam would see keys of two strips:
they hold zeros, not queries. The stack goes through in chunks whose scores stay in the processor's cache, and backward
computes the scores again instead of keeping them: a training step keeps the query, key, value and output maps, nothing
else.

A dilated window sees every ``dilation``-th pixel. The pixels of one residue are laid out side by side, which leaves
a problem without dilation for each residue.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .borders import reflect

_STRIP = 8  # queries; a wider strip has fewer copies, a narrower one fewer keys to mask
_CHUNK = 1 << 18  # scores


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """See :func:`mmacmix.ops.neighborhood_attention`. float16 and bfloat16 are computed in float32."""
    return _BlockedAttention.apply(query, key, value, kernel_size, stride, dilation)


class _Axis(NamedTuple):
    """How one axis of the map is cut: into residues, each of them into strips that overlap by their halo."""

    residues: int
    strips: int  # of a residue
    queries: int  # places for queries of a strip
    step: int  # keys between two queries
    seen: int  # keys that a strip sees
    keys: Tensor  # pixels of all residues' keys, one residue after the other, reflected at the borders


def _cut_axis(length: int, queries: int, strip: int, kernel_size: int, stride: int, dilation: int) -> _Axis:
    common = math.gcd(stride, dilation)
    residues, step = dilation // common, stride // common
    strips = -(-queries // (residues * strip))
    places = -(-queries // (residues * strips))
    seen = (places - 1) * step + kernel_size
    if strips == 1:  # its neighbour in the stack is another strip: the seam needs places of its own
        places = -(-seen // step)
        seen = places * step
    first = torch.arange(residues)[:, None] * stride - kernel_size // 2 * dilation
    keys = first + torch.arange((strips - 1) * places * step + seen) * dilation
    return _Axis(residues, strips, places, step, seen, reflect(keys, length).flatten())


class _Cut(NamedTuple):
    """How a map is cut, and the mask of a row of queries."""

    rows: _Axis
    columns: _Axis
    window: int  # grid rows that a row of queries sees; a grid row holds the keys from one query row to the next
    mask: Tensor  # (queries, window * keys of a grid row), added to the scores: 0 within the query's window, else -inf


@lru_cache(maxsize=64)
def _cut(
    key_size: tuple[int, int],
    query_size: tuple[int, int],
    kernel_size: int,
    stride: int,
    dilation: int,
    dtype: torch.dtype,
    device: torch.device,
) -> _Cut:
    rows, columns = (
        _cut_axis(length, queries, strip, kernel_size, stride, dilation)
        for length, queries, strip in zip(key_size, query_size, (query_size[0], _STRIP), strict=False)
    )
    window = -(-kernel_size // rows.step)
    ahead = torch.arange(columns.seen) - torch.arange(columns.queries)[:, None] * columns.step
    outside = ((ahead < 0) | (ahead >= kernel_size)).repeat(1, window * rows.step)
    outside[:, kernel_size * columns.seen :] = True
    mask = torch.zeros(outside.shape, dtype=dtype).masked_fill_(outside, -math.inf)
    rows, columns = (axis._replace(keys=axis.keys.to(device)) for axis in (rows, columns))
    return _Cut(rows, columns, window, mask.to(device))


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, kernel_size, stride, dilation):
        dtype = torch.promote_types(query.dtype, torch.float32)
        # While a tracer shows fake tensors instead of real ones, they must not get into the cache.
        cut_of = _cut if type(query.new_empty(0)) is Tensor else _cut.__wrapped__
        cut = cut_of(key.shape[3:], query.shape[3:], kernel_size, stride, dilation, dtype, query.device)
        queries = _stack_queries(query.to(dtype), cut)
        keys, values = (_windows(_stack_keys(maps.to(dtype), cut), cut) for maps in (key, value))
        outputs = torch.empty_like(queries)
        # Room for a chunk, to be used again and again: fresh memory costs more than the arithmetic.
        chunk = _rows_per_chunk(queries, cut)
        scores, weights = queries.new_empty(2, chunk, *cut.mask.shape)
        for rows in _chunks(queries, cut):
            count = rows.stop - rows.start
            weight = _attention_weights(queries[rows], keys[rows], cut, scores[:count], weights[:count])
            torch.bmm(weight, values[rows], out=outputs[rows])
        output = _unstack_queries(outputs, query, cut)
        ctx.save_for_backward(query, key, value, output)
        ctx.cut = cut
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        query, key, value, output = ctx.saved_tensors
        cut, dtype = ctx.cut, ctx.cut.mask.dtype
        queries, grads, outputs = (_stack_queries(maps.to(dtype), cut) for maps in (query, grad_output, output))
        grids = [_stack_keys(maps.to(dtype), cut) for maps in (key, value)]
        keys, values = (_windows(grid, cut) for grid in grids)
        grad_grids = [torch.zeros_like(grid) for grid in grids]
        grad_queries = torch.empty_like(queries)
        inner = (grads * outputs).sum(-1, keepdim=True)
        chunk = _rows_per_chunk(queries, cut)
        scores, weights = queries.new_empty(2, chunk, *cut.mask.shape)
        overlap = cut.window - 1
        matrices = queries.new_zeros(overlap + chunk + overlap, *keys.shape[1:])
        for rows in _chunks(queries, cut):
            count = rows.stop - rows.start
            q, k, grad, score = queries[rows], keys[rows], grads[rows], scores[:count]
            weight = _attention_weights(q, k, cut, score, weights[:count])
            # d score = weight * (d weight - sum(weight * d weight)), and that sum is output . d output
            torch.bmm(grad, values[rows].mT, out=score)
            score.sub_(inner[rows]).mul_(weight)
            torch.bmm(score, k, out=grad_queries[rows])
            for grad_grid, left, right in zip(grad_grids, (score, weight), (q, grad), strict=False):
                torch.bmm(left.mT, right, out=matrices[overlap : overlap + count])
                matrices[overlap + count :][:overlap].zero_()
                grad_grid[rows.start : rows.stop + overlap] += _overlap_add(matrices, count, cut)
        scale = query.shape[2] ** -0.5
        return (
            _unstack_queries(grad_queries.mul_(scale), query, cut),
            _unstack_keys(grad_grids[0].mul_(scale), key, cut),
            _unstack_keys(grad_grids[1], value, cut),
            None,
            None,
            None,
        )


def _stack_queries(maps: Tensor, cut: _Cut) -> Tensor:
    """``(B, heads, d, H, W)`` -> ``(rows of all strips, queries, d)``, zeros in the places of no query."""
    rows, columns = cut.rows, cut.columns
    maps = F.pad(
        maps,
        (
            0,
            columns.residues * columns.strips * columns.queries - maps.shape[4],
            0,
            rows.residues * rows.queries - maps.shape[3],
        ),
    )
    maps = maps.unflatten(4, (columns.strips, columns.queries, columns.residues))
    maps = maps.unflatten(3, (rows.queries, rows.residues))
    return maps.permute(0, 1, 7, 5, 4, 3, 6, 2).flatten(0, 5)


def _unstack_queries(stack: Tensor, like: Tensor, cut: _Cut) -> Tensor:
    """The inverse of :func:`_stack_queries`, in the shape, dtype and memory format of ``like``."""
    rows, columns = cut.rows, cut.columns
    maps = stack.view(
        *like.shape[:2], columns.residues, columns.strips, rows.residues, rows.queries, columns.queries, -1
    )
    maps = maps.permute(0, 1, 7, 5, 4, 3, 6, 2)
    full = (rows.queries * rows.residues, columns.strips * columns.queries * columns.residues)
    # Written straight into channels_last memory: (B, H, W, heads, d).
    out = stack.new_empty(like.shape[0], *full, *like.shape[1:3]).permute(0, 3, 4, 1, 2)
    out.unflatten(4, (columns.strips, columns.queries, columns.residues)).unflatten(
        3, (rows.queries, rows.residues)
    ).copy_(maps)
    return out[..., : like.shape[3], : like.shape[4]].to(like.dtype)


def _stack_keys(maps: Tensor, cut: _Cut) -> Tensor:
    """``(B, heads, d, H, W)`` -> grid ``(rows of all strips, keys of a grid row, d)``, contiguous."""
    maps = maps.permute(0, 1, 3, 4, 2).index_select(2, cut.rows.keys).index_select(3, cut.columns.keys)
    grid = _strips(maps, cut, range(cut.columns.strips)).contiguous()
    return grid.view(-1, cut.rows.step * cut.columns.seen, maps.shape[4])


def _unstack_keys(grid: Tensor, like: Tensor, cut: _Cut) -> Tensor:
    """The adjoint of :func:`_stack_keys`: every pixel gets the sum of its copies."""
    columns = cut.columns
    batch, heads, channels, height, width = like.shape
    key_rows, key_columns = cut.rows.keys.numel(), columns.keys.numel()
    grid = grid.view(batch, heads, columns.residues, columns.strips, key_rows, columns.seen, channels)
    maps = grid.new_zeros(batch, heads, key_rows, key_columns, channels)
    apart = -(-columns.seen // (columns.queries * columns.step))  # strips this far from each other do not overlap
    for first in range(min(apart, columns.strips)):
        some = range(first, columns.strips, apart)
        _strips(maps, cut, some).add_(grid[:, :, :, first::apart])
    folded = maps.new_zeros(batch, heads, key_rows, width, channels).index_add_(3, columns.keys, maps)
    maps = maps.new_zeros(batch, height, width, heads, channels).permute(0, 3, 1, 2, 4)
    maps.index_add_(2, cut.rows.keys, folded)
    return maps.permute(0, 1, 4, 2, 3).to(like.dtype)


def _strips(maps: Tensor, cut: _Cut, some: range) -> Tensor:
    """View some strips, which overlap: ``(B, heads, residues, strips, key rows, columns, d)``."""
    columns = cut.columns
    batch, head, row, column, channel = maps.stride()
    of_strip = columns.queries * columns.step * column
    of_residue = columns.keys.numel() // columns.residues * column
    size = (*maps.shape[:2], columns.residues, len(some), maps.shape[2], columns.seen, maps.shape[4])
    return maps.as_strided(
        size,
        (batch, head, of_residue, some.step * of_strip, row, column, channel),
        maps.storage_offset() + some.start * of_strip,
    )


def _windows(grid: Tensor, cut: _Cut) -> Tensor:
    """The key matrix of every row of queries, an overlapping view of the grid: ``(rows, K, d)``."""
    rows, keys, channels = grid.shape
    return grid.as_strided((rows - cut.window + 1, cut.window * keys, channels), grid.stride())


def _overlap_add(matrices: Tensor, count: int, cut: _Cut) -> Tensor:
    """The adjoint of :func:`_windows` for ``count`` successive rows: the grid rows they see.

    Grid row r gets part 0 of matrix r, part 1 of matrix r - 1, and so on. Seen backwards from the last part, these
    lie at equal distances in memory, so that one sum over a view collects them. ``window - 1`` matrices of zeros
    surround the others.
    """
    parts, keys, channels = cut.window, matrices.shape[1] // cut.window, matrices.shape[2]
    part = keys * channels
    view = matrices.as_strided(
        (count + parts - 1, parts, keys, channels), (parts * part, (parts - 1) * part, channels, 1), (parts - 1) * part
    )
    return view.sum(1)


def _attention_weights(queries: Tensor, keys: Tensor, cut: _Cut, scores: Tensor, weights: Tensor) -> Tensor:
    """``(rows, S, d), (rows, K, d)`` -> ``(rows, S, K)``, in ``weights``; overwrites ``scores``."""
    torch.baddbmm(cut.mask, queries, keys.mT, alpha=queries.shape[-1] ** -0.5, out=scores)
    return torch.softmax(scores, -1, out=weights)


def _rows_per_chunk(queries: Tensor, cut: _Cut) -> int:
    return min(max(1, _CHUNK // cut.mask.numel()), queries.shape[0])


def _chunks(queries: Tensor, cut: _Cut) -> Iterator[slice]:
    """Ranges of stacked rows. The last rows, fewer than a window, lie behind every query."""
    rows, step = queries.shape[0] - cut.window + 1, _rows_per_chunk(queries, cut)
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))
