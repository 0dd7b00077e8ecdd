"""Neighbourhood attention as dense matrix products over strips of the map; any device.

The map is cut into vertical strips a few queries wide. For each strip the keys that any of its queries can see
(the strip and its halo) are laid out row after row, so that the keys of *one row of queries*, ``kernel_size`` rows
of the strip, are one contiguous piece of memory: a matrix. The matrices of successive query rows overlap, as views of
the same memory, so keys are copied less than twice instead of ``kernel_size ** 2`` times. A row of queries is scored
against its matrix in one product a head; a mask removes the keys outside each query's window.

All strips of all images are stacked into one long strip, with the channels of all heads side by side, as channels_last
memory has them: what is copied are long pieces. The rows at a seam would see keys of two strips: they hold zeros, not
queries. The stack goes through in chunks whose scores stay in the processor's cache, and backward computes the scores
again instead of keeping them: a training step keeps the query, key, value and output maps, nothing else.

A dilated window sees every ``dilation``-th pixel. The strips of a residue hold just these, which leaves a problem
without dilation for each residue.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..borders import reflect
from . import exportable

_CHUNK = 1 << 19  # scores at a time: few enough for the cache, enough for all cores


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """See ``mmacmix.ops.neighborhood_attention``. float16 and bfloat16 are computed in float32."""
    if exportable.is_exporting():
        return exportable.neighborhood_attention(query, key, value, kernel_size, stride, dilation)
    return _heads_first(_BlockedAttention.apply(query, key, value, kernel_size, stride, dilation), query)


class _Axis(NamedTuple):
    """How one axis of the map is cut: into residues, each of them into strips that overlap by their halo."""

    residues: int
    strips: int  # of a residue
    places: int  # for queries, of a strip
    step: int  # keys between two queries
    seen: int  # keys that a strip sees
    before: int  # pixels that the windows reach over the border
    outside: Tensor  # where they do: pixels of the padded map, before and behind ...
    inside: Tensor  # ... and the pixels of the padded map that these mirror
    padded: int  # pixels of the padded map


class _Cut(NamedTuple):
    """How a map is cut, and the mask of a row of queries."""

    rows: _Axis
    columns: _Axis
    stride: int
    dilation: int
    window: int  # grid rows that a row of queries sees; a grid row holds the keys from one query row to the next
    mask: Tensor  # (queries, window * keys of a grid row), added to the scores: 0 within the query's window, else -inf


def _strip_width(head_dim: int) -> int:
    """Queries. A wider strip has fewer copies of keys and larger matrices, a narrower one fewer keys to mask."""
    return 8 if head_dim < 128 else 16


@lru_cache(maxsize=64)
def _cut(
    key_size: tuple[int, int],
    query_size: tuple[int, int],
    strip: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    dtype: torch.dtype,
    device: torch.device,
) -> _Cut:
    common = math.gcd(stride, dilation)
    residues, step = dilation // common, stride // common

    def cut_axis(length: int, strips: int, places: int, seen: int) -> _Axis:
        before = kernel_size // 2 * dilation
        last = (residues - 1) * stride + ((strips - 1) * places * step + seen - 1) * dilation
        padded = max(last + 1, before + length)
        outside = torch.cat([torch.arange(before), torch.arange(before + length, padded)])
        inside = reflect(outside - before, length) + before
        return _Axis(residues, strips, places, step, seen, before, outside.to(device), inside.to(device), padded)

    # Below each other, strips of other columns follow: a seam of rows that are no queries.
    places = -(-((-(-query_size[0] // residues) - 1) * step + kernel_size) // step)
    rows = cut_axis(key_size[0], 1, places, places * step)
    strips = -(-query_size[1] // (residues * strip))
    places = -(-query_size[1] // (residues * strips))
    columns = cut_axis(key_size[1], strips, places, (places - 1) * step + kernel_size)
    window = -(-kernel_size // step)
    ahead = torch.arange(columns.seen) - torch.arange(places)[:, None] * step
    hidden = ((ahead < 0) | (ahead >= kernel_size)).repeat(1, window * step)
    hidden[:, kernel_size * columns.seen :] = True
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -math.inf)
    return _Cut(rows, columns, stride, dilation, window, mask.to(device))


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, kernel_size, stride, dilation):
        dtype = torch.promote_types(query.dtype, torch.float32)
        # While a tracer shows fake tensors instead of real ones, they must not get into the cache.
        cut_of = _cut if type(query.new_empty(0)) is Tensor else _cut.__wrapped__
        sizes = key.shape[3:], query.shape[3:], _strip_width(query.shape[2])
        cut = cut_of(*sizes, kernel_size, stride, dilation, dtype, query.device)
        queries = _stack_queries(_channels_last(query), cut)
        keys, values = (_windows(_stack_keys(maps, cut), cut) for maps in (key, value))
        outputs = torch.empty_like(queries)
        heads = _heads(query)
        # Room for a chunk, to be used again and again: fresh memory costs more than the arithmetic.
        chunk = _rows_per_chunk(queries, cut)
        scores, weights = queries.new_empty(2, chunk, *cut.mask.shape)
        mixed = queries.new_empty(chunk, queries.shape[1], query.shape[2])
        for rows in _chunks(queries, cut):
            count = rows.stop - rows.start
            for head in heads:
                q, k, v = queries[rows, :, head], keys[rows, :, head], values[rows, :, head]
                weight = _attention_weights(q, k, cut, scores[:count], weights[:count])
                outputs[rows, :, head] = torch.bmm(weight, v, out=mixed[:count])
        output = _unstack_queries(outputs, query, cut)
        ctx.save_for_backward(query, key, value, output)
        ctx.cut = cut
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        query, key, value, output = ctx.saved_tensors
        cut = ctx.cut
        queries, grads, outputs = (_stack_queries(maps, cut) for maps in (_channels_last(query), grad_output, output))
        grids = [_stack_keys(maps, cut) for maps in (key, value)]
        keys, values = (_windows(grid, cut) for grid in grids)
        grad_grids = [torch.zeros_like(grid) for grid in grids]
        grad_queries = outputs  # a chunk of outputs is not needed any more when its gradients are there
        chunk = _rows_per_chunk(queries, cut)
        scores, weights = queries.new_empty(2, chunk, *cut.mask.shape)
        mixed = queries.new_empty(chunk, queries.shape[1], query.shape[2])
        overlap = cut.window - 1
        matrices = queries.new_zeros(overlap + chunk + overlap, keys.shape[1], query.shape[2])
        for rows in _chunks(queries, cut):
            count = rows.stop - rows.start
            for head in _heads(query):
                q, k, v, grad, out = (stack[rows, :, head] for stack in (queries, keys, values, grads, outputs))
                weight = _attention_weights(q, k, cut, scores[:count], weights[:count])
                # d score = weight * (d weight - sum(weight * d weight)), and that sum is output . d output
                score = torch.bmm(grad, v.mT, out=scores[:count])
                score.sub_((grad * out).sum(-1, keepdim=True)).mul_(weight)
                out.copy_(torch.bmm(score, k, out=mixed[:count]))
                for grad_grid, left, right in zip(grad_grids, (score, weight), (q, grad), strict=True):
                    torch.bmm(left.mT, right, out=matrices[overlap : overlap + count])
                    matrices[overlap + count :][:overlap].zero_()
                    grad_grid[rows.start : rows.stop + overlap, :, head] += _overlap_add(matrices, count, cut)
        scale = query.shape[2] ** -0.5
        return (
            _heads_first(_unstack_queries(grad_queries.mul_(scale), query, cut), query),
            _unstack_keys(grad_grids[0].mul_(scale), key, cut),
            _unstack_keys(grad_grids[1], value, cut),
            None,
            None,
            None,
        )


def _heads(maps: Tensor) -> list[slice]:
    """The channels of each head."""
    heads, channels = maps.shape[1:3]
    return [slice(head * channels, (head + 1) * channels) for head in range(heads)]


def _channels_last(maps: Tensor) -> Tensor:
    """``(B, heads, d, H, W)`` -> ``(B, H, W, heads * d)``, a view of a channels_last map."""
    return maps.permute(0, 3, 4, 1, 2).flatten(3)


def _heads_first(maps: Tensor, like: Tensor) -> Tensor:
    """The inverse of ``_channels_last``, a view."""
    return maps.unflatten(3, like.shape[1:3]).permute(0, 3, 4, 1, 2)


def _stack_queries(maps: Tensor, cut: _Cut) -> Tensor:
    """``(B, H, W, heads * d)`` -> ``(rows of all strips, queries, heads * d)``, zeros in the places of no query."""
    rows, columns = cut.rows, cut.columns
    stack = maps.new_empty(
        maps.shape[0], columns.residues, columns.strips, rows.residues, rows.places, columns.places, maps.shape[3],
        dtype=cut.mask.dtype,
    )  # fmt: skip
    for row in range(rows.residues):
        stack[:, :, :, row, -(-(maps.shape[1] - row) // rows.residues) :] = 0
    for column in range(columns.residues):
        stack[:, column, -(-(maps.shape[2] - column) // columns.residues) // columns.places :] = 0
    for strips, pixels in _strips_of_queries(stack, maps):
        strips.copy_(pixels)
    return stack.flatten(0, 4)


def _unstack_queries(stack: Tensor, like: Tensor, cut: _Cut) -> Tensor:
    """The inverse of ``_stack_queries``: ``(B, H, W, heads * d)``, for a map like ``like`` and in its dtype."""
    rows, columns = cut.rows, cut.columns
    batch, heads, channels, height, width = like.shape
    stack = stack.view(
        batch, columns.residues, columns.strips, rows.residues, rows.places, columns.places, heads * channels
    )
    maps = stack.new_empty(batch, height, width, heads * channels, dtype=like.dtype)
    for strips, pixels in _strips_of_queries(stack, maps):
        pixels.copy_(strips)
    return maps


def _strips_of_queries(stack: Tensor, maps: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Where in the stack the queries of a map ``(B, H, W, C)`` lie, and these: ``(B, strips, H, places, C)``."""
    column_residues, row_residues, places = stack.shape[1], stack.shape[3], stack.shape[5]
    for column in range(column_residues):
        for row in range(row_residues):
            some = maps[:, row::row_residues, column::column_residues]
            height, width = some.shape[1:3]
            full, rest = width // places, width % places  # tracers know no divmod
            strips = stack[:, column, :, row, :height]
            yield strips[:, :full], some[:, :, : full * places].unflatten(2, (full, places)).transpose(1, 2)
            if rest:
                yield strips[:, full : full + 1, :, :rest], some[:, None, :, full * places :]


def _stack_keys(maps: Tensor, cut: _Cut) -> Tensor:
    """``(B, heads, d, H, W)`` -> grid ``(rows of all strips, keys of a grid row, heads * d)``."""
    maps = _channels_last(maps)
    rows, columns = cut.rows, cut.columns
    padded = maps.new_empty(maps.shape[0], rows.padded, columns.padded, maps.shape[3])
    _inner(padded, maps.shape, cut).copy_(maps)
    padded.index_copy_(2, columns.outside, padded.index_select(2, columns.inside))
    padded.index_copy_(1, rows.outside, padded.index_select(1, rows.inside))
    grid = maps.new_empty(
        maps.shape[0], columns.residues, columns.strips, rows.residues, rows.seen, columns.seen, maps.shape[3],
        dtype=cut.mask.dtype,
    )  # fmt: skip
    for strips, pixels in _strips_of_keys(grid, padded, cut):
        strips.copy_(pixels)
    return grid.view(-1, rows.step * columns.seen, maps.shape[3])


def _unstack_keys(grid: Tensor, like: Tensor, cut: _Cut) -> Tensor:
    """The adjoint of ``_stack_keys``: every pixel gets the sum of its copies."""
    rows, columns = cut.rows, cut.columns
    batch, heads, channels, height, width = like.shape
    grid = grid.view(batch, columns.residues, columns.strips, rows.residues, rows.seen, columns.seen, heads * channels)
    padded = grid.new_zeros(batch, rows.padded, columns.padded, heads * channels)
    apart = -(-columns.seen // (columns.places * columns.step))  # strips this far from each other do not overlap
    for first in range(min(apart, columns.strips)):
        for strips, pixels in _strips_of_keys(grid, padded, cut, slice(first, None, apart)):
            pixels.add_(strips)
    padded.index_add_(1, rows.inside, padded.index_select(1, rows.outside))
    padded.index_add_(2, columns.inside, padded.index_select(2, columns.outside))
    return _heads_first(_inner(padded, (batch, height, width), cut).to(like.dtype).contiguous(), like)


def _inner(padded: Tensor, shape: tuple[int, ...], cut: _Cut) -> Tensor:
    """The map inside the padded one, both ``(B, H, W, C)``."""
    top, left = cut.rows.before, cut.columns.before
    return padded[:, top : top + shape[1], left : left + shape[2]]


def _strips_of_keys(
    grid: Tensor, padded: Tensor, cut: _Cut, some: slice = slice(None)
) -> Iterator[tuple[Tensor, Tensor]]:
    """Strips of keys, and where in the padded map they come from: ``(B, strips, keys down, keys across, C)``."""
    rows, columns = cut.rows, cut.columns
    image, down, across, channel = padded.stride()
    apart = columns.places * columns.step * cut.dilation * across
    first, _, every = some.indices(columns.strips)
    for column in range(columns.residues):
        for row in range(rows.residues):
            strips = grid[:, column, some, row]
            start = (row * down + column * across) * cut.stride + first * apart
            strides = (image, every * apart, cut.dilation * down, cut.dilation * across, channel)
            yield strips, padded.as_strided(strips.shape, strides, start)  # all of its storage


def _windows(grid: Tensor, cut: _Cut) -> Tensor:
    """The key matrix of every row of queries, an overlapping view of the grid: ``(rows, K, d)``."""
    rows, keys, channels = grid.shape
    return grid.as_strided((rows - cut.window + 1, cut.window * keys, channels), grid.stride())


def _overlap_add(matrices: Tensor, count: int, cut: _Cut) -> Tensor:
    """The adjoint of ``_windows`` for ``count`` successive rows: the grid rows they see.

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
