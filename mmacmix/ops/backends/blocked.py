"""Neighbourhood attention as dense matrix products over strips of queries; any device.

The map is cut into vertical strips a few queries wide. The keys of each strip and its halo are stored row by row, so
the keys seen by *one row of queries*, ``kernel_size`` rows of the strip, are one contiguous block of memory: a matrix.
The matrices of successive query rows overlap as views of the same memory, so keys are copied less than twice instead
of ``kernel_size ** 2`` times. One product per head scores a row of queries against its matrix; a mask removes the
keys outside each query's window.

Strips are stacked vertically, those of all images into one long strip; filler rows keep windows from crossing a
boundary. The channels of all heads lie side by side, as in channels_last memory, so that long runs are copied. The
stack is processed in chunks whose scores stay in the processor's cache. Backward recomputes the scores: training
keeps the query, key, value and output maps only.

A dilated window sees every ``dilation``-th pixel. Pixels with the same residue modulo the dilation form their own
strips, in which the window is not dilated.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..borders import outside_window, reflect, residues_and_step
from ..exporting import is_exporting
from ..sizes import ceil_div
from ..torch_versions import is_compiling
from . import exportable

_CHUNK = 1 << 19  # scores at a time: few enough for the cache, enough for all cores


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """See ``mmacmix.ops.neighborhood_attention``. float16 and bfloat16 are computed in float32."""
    if is_exporting():
        return exportable.neighborhood_attention(query, key, value, kernel_size, stride, dilation)
    return _heads_first(_BlockedAttention.apply(query, key, value, kernel_size, stride, dilation), query)


class _Axis(NamedTuple):
    """One axis of a strip and of the padded map."""

    queries: int  # per strip; rows include filler rows
    keys: int  # per strip, with its halo
    padded_length: int
    border: Tensor  # padded positions filled by reflection
    source: Tensor  # positions that are reflected there

    @classmethod
    def of(cls, queries: int, keys: int, padding: int, length: int, last: int, device: torch.device) -> '_Axis':
        """``last`` is the last position of the padded axis that any strip reads."""
        padded_length = max(last + 1, padding + length)
        border = torch.cat([torch.arange(padding), torch.arange(padding + length, padded_length)])
        source = reflect(border - padding, length) + padding
        return cls(queries, keys, padded_length, border.to(device), source.to(device))


class _Layout(NamedTuple):
    """How a map is cut into strips. A grid row holds the ``step`` rows of keys from one query row to the next."""

    rows: _Axis
    columns: _Axis
    strips: int  # side by side, per residue
    residues: int  # of query positions modulo the dilation, per axis
    step: int  # keys from one query to the next
    stride: int
    dilation: int
    padding: int  # pixels above and to the left of the map
    window: int  # grid rows that a row of queries sees
    mask: Tensor  # (queries, keys of a window of grid rows), added to the scores: 0 in the query's window, else -inf

    def stack_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Shape of the stacked queries or keys of an image, for this many rows and columns per strip."""
        return self.residues, self.strips, self.residues, rows, columns


@lru_cache(maxsize=64)
def _layout(
    key_size: tuple[int, int],
    query_size: tuple[int, int],
    strip: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    dtype: torch.dtype,
    device: torch.device,
) -> _Layout:
    residues, step = residues_and_step(stride, dilation)
    padding = kernel_size // 2 * dilation
    first = (residues - 1) * stride  # of the last residue
    # The keys of the last query row end at the boundary, which leaves rows without queries: the filler rows.
    queries = ceil_div((ceil_div(query_size[0], residues) - 1) * step + kernel_size, step)
    keys = queries * step
    rows = _Axis.of(queries, keys, padding, key_size[0], first + (keys - 1) * dilation, device)
    strips = ceil_div(query_size[1], residues * strip)
    queries = ceil_div(query_size[1], residues * strips)
    keys = (queries - 1) * step + kernel_size
    last = first + ((strips - 1) * queries * step + keys - 1) * dilation
    columns = _Axis.of(queries, keys, padding, key_size[1], last, device)
    window = ceil_div(kernel_size, step)
    hidden = outside_window(queries, keys, step, kernel_size).repeat(1, window * step)
    hidden[:, kernel_size * keys :] = True
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -math.inf).to(device)
    return _Layout(rows, columns, strips, residues, step, stride, dilation, padding, window, mask)


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, kernel_size, stride, dilation):
        dtype = torch.promote_types(query.dtype, torch.float32)
        strip = 8 if query.shape[2] < 128 else 16  # wide: fewer copies, larger matrices; narrow: fewer masked keys
        # Fake tensors, which tracers and compilers use, must not get into the cache.
        fake = is_compiling() or type(query.new_empty(0)) is not Tensor
        layout_of = _layout.__wrapped__ if fake else _layout
        layout = layout_of(key.shape[3:], query.shape[3:], strip, kernel_size, stride, dilation, dtype, query.device)
        queries = _stack_queries(_channels_last(query), layout)
        keys, values = (_windows(_stack_keys(maps, layout), layout) for maps in (key, value))
        outputs = torch.empty_like(queries)
        for part, scores, weights, products in _chunks(queries, query.shape[1], layout):
            weights = _attention_weights(queries[part], keys[part], layout, scores, weights)
            outputs[part] = torch.bmm(weights, values[part], out=products)
        output = _unstack_queries(outputs, query, layout)
        ctx.save_for_backward(query, key, value, output)
        ctx.layout = layout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        query, key, value, output = ctx.saved_tensors
        layout = ctx.layout
        maps = _channels_last(query), grad_output, output
        queries, grads, outputs = (_stack_queries(each, layout) for each in maps)
        grids = [_stack_keys(each, layout) for each in (key, value)]
        keys, values = (_windows(grid, layout) for grid in grids)
        grad_grids = [torch.zeros_like(grid) for grid in grids]
        overlap = layout.window - 1
        matrices = queries.new_zeros(_chunk_rows(queries, layout) + 2 * overlap, keys.shape[1], query.shape[2])
        for part, scores, weights, products in _chunks(queries, query.shape[1], layout):
            rows, _, head = part
            count = rows.stop - rows.start
            q, k, v, grad, out = (stack[part] for stack in (queries, keys, values, grads, outputs))
            weights = _attention_weights(q, k, layout, scores, weights)
            # d score = weight * (d weight - sum(weight * d weight)), and that sum is output . d output
            grad_scores = torch.bmm(grad, v.mT, out=scores)
            grad_scores.sub_((grad * out).sum(-1, keepdim=True)).mul_(weights)
            out.copy_(torch.bmm(grad_scores, k, out=products))  # the query gradients replace the outputs
            for grad_grid, left, right in zip(grad_grids, (grad_scores, weights), (q, grad), strict=True):
                torch.bmm(left.mT, right, out=matrices[overlap : overlap + count])
                matrices[overlap + count :][:overlap].zero_()
                grad_grid[rows.start : rows.stop + overlap, :, head] += _overlap_add(matrices, count, layout)
        scale = query.shape[2] ** -0.5
        grad_query = _heads_first(_unstack_queries(outputs.mul_(scale), query, layout), query)
        grad_key = _unstack_keys(grad_grids[0].mul_(scale), key, layout)
        return grad_query, grad_key, _unstack_keys(grad_grids[1], value, layout), None, None, None


def _channels_last(maps: Tensor) -> Tensor:
    """``(B, heads, d, H, W)`` -> ``(B, H, W, heads * d)``, a view of a channels_last map."""
    return maps.permute(0, 3, 4, 1, 2).flatten(3)


def _heads_first(maps: Tensor, like: Tensor) -> Tensor:
    """The inverse of ``_channels_last``, a view."""
    return maps.unflatten(3, like.shape[1:3]).permute(0, 3, 4, 1, 2)


def _stack_queries(maps: Tensor, layout: _Layout) -> Tensor:
    """``(B, H, W, C)`` -> ``(rows of all strips, queries per row, C)``, with zeros where there is no query."""
    batch, height, width, channels = maps.shape
    queries = layout.columns.queries
    shape = layout.stack_shape(layout.rows.queries, queries)
    stack = maps.new_empty(batch, *shape, channels, dtype=layout.mask.dtype)
    for residue in range(layout.residues):
        stack[:, :, :, residue, ceil_div(height - residue, layout.residues) :] = 0
        stack[:, residue, ceil_div(width - residue, layout.residues) // queries :] = 0
    for strips, pixels in _strips_of_queries(stack, maps):
        strips.copy_(pixels)
    return stack.flatten(0, 4)


def _unstack_queries(stack: Tensor, like: Tensor, layout: _Layout) -> Tensor:
    """The inverse of ``_stack_queries``: ``(B, H, W, heads * d)``, with the sizes and dtype of ``like``."""
    batch, heads, head_dim, height, width = like.shape
    shape = layout.stack_shape(layout.rows.queries, layout.columns.queries)
    maps = stack.new_empty(batch, height, width, heads * head_dim, dtype=like.dtype)
    for strips, pixels in _strips_of_queries(stack.view(batch, *shape, heads * head_dim), maps):
        pixels.copy_(strips)
    return maps


def _strips_of_queries(stack: Tensor, maps: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the stack and of the same queries in the map, both ``(B, strips, H, queries per row, C)``."""
    residues, queries = stack.shape[1], stack.shape[5]
    for column in range(residues):
        for row in range(residues):
            pixels = maps[:, row::residues, column::residues]
            height, width = pixels.shape[1:3]
            full, rest = width // queries, width % queries  # divmod cannot be traced
            strips = stack[:, column, :, row, :height]
            yield strips[:, :full], pixels[:, :, : full * queries].unflatten(2, (full, queries)).transpose(1, 2)
            if rest:
                yield strips[:, full : full + 1, :, :rest], pixels[:, None, :, full * queries :]


def _stack_keys(maps: Tensor, layout: _Layout) -> Tensor:
    """``(B, heads, d, H, W)`` -> grid ``(grid rows of all strips, keys of a grid row, heads * d)``."""
    maps = _channels_last(maps)
    rows, columns = layout.rows, layout.columns
    batch, height, width, channels = maps.shape
    padded = maps.new_empty(batch, rows.padded_length, columns.padded_length, channels)
    _unpadded(padded, height, width, layout).copy_(maps)
    padded.index_copy_(2, columns.border, padded.index_select(2, columns.source))
    padded.index_copy_(1, rows.border, padded.index_select(1, rows.source))
    shape = layout.stack_shape(rows.keys, columns.keys)
    grid = maps.new_empty(batch, *shape, channels, dtype=layout.mask.dtype)
    for strips, pixels in _strips_of_keys(grid, padded, layout):
        strips.copy_(pixels)
    return grid.view(-1, layout.step * columns.keys, channels)


def _unstack_keys(grid: Tensor, like: Tensor, layout: _Layout) -> Tensor:
    """The adjoint of ``_stack_keys``: the sum of each pixel's copies."""
    rows, columns = layout.rows, layout.columns
    batch, heads, head_dim, height, width = like.shape
    grid = grid.view(batch, *layout.stack_shape(rows.keys, columns.keys), heads * head_dim)
    padded = grid.new_zeros(batch, rows.padded_length, columns.padded_length, heads * head_dim)
    every = ceil_div(columns.keys, columns.queries * layout.step)  # strips at this distance do not overlap
    for first in range(min(every, layout.strips)):
        for strips, pixels in _strips_of_keys(grid, padded, layout, first, every):
            pixels.add_(strips)
    padded.index_add_(1, rows.source, padded.index_select(1, rows.border))
    padded.index_add_(2, columns.source, padded.index_select(2, columns.border))
    return _heads_first(_unpadded(padded, height, width, layout).to(like.dtype).contiguous(), like)


def _unpadded(padded: Tensor, height: int, width: int, layout: _Layout) -> Tensor:
    return padded[:, layout.padding : layout.padding + height, layout.padding : layout.padding + width]


def _strips_of_keys(
    grid: Tensor, padded: Tensor, layout: _Layout, first: int = 0, every: int = 1
) -> list[tuple[Tensor, Tensor]]:
    """Views of the grid and of the same keys in the padded map, both ``(B, strips, rows, columns, C)``."""
    pairs = []  # not a generator, which torch.compile of torch 2.15 rejects
    batch, down, right, channel = padded.stride()
    strides = down * layout.dilation, right * layout.dilation, channel
    strip = layout.columns.queries * layout.step * layout.dilation * right  # distance of neighbouring strips
    for column in range(layout.residues):
        for row in range(layout.residues):
            strips = grid[:, column, first::every, row]
            start = (row * down + column * right) * layout.stride + first * strip
            pairs.append((strips, padded.as_strided(strips.shape, (batch, every * strip, *strides), start)))
    return pairs


def _windows(grid: Tensor, layout: _Layout) -> Tensor:
    """The key matrix of every row of queries, an overlapping view of the grid: ``(rows, keys, C)``."""
    rows, keys, channels = grid.shape
    return grid.as_strided((rows - layout.window + 1, layout.window * keys, channels), grid.stride())


def _overlap_add(matrices: Tensor, count: int, layout: _Layout) -> Tensor:
    """The adjoint of ``_windows`` for ``count`` successive rows of queries: the gradient of the grid rows they see.

    Grid row r receives part 0 of matrix r, part 1 of matrix r - 1, and so on. In reverse order, these parts are
    equally spaced in memory, so one sum over a strided view adds them. ``window - 1`` matrices of zeros precede and
    follow the ``count`` matrices.
    """
    parts, keys, channels = layout.window, matrices.shape[1] // layout.window, matrices.shape[2]
    part = keys * channels
    view = matrices.as_strided(
        (count + parts - 1, parts, keys, channels), (parts * part, (parts - 1) * part, channels, 1), (parts - 1) * part
    )
    return view.sum(1)


def _attention_weights(queries: Tensor, keys: Tensor, layout: _Layout, scores: Tensor, weights: Tensor) -> Tensor:
    """``(rows, Q, d), (rows, K, d)`` -> ``(rows, Q, K)``, in ``weights``; overwrites ``scores``."""
    torch.baddbmm(layout.mask, queries, keys.mT, alpha=queries.shape[-1] ** -0.5, out=scores)
    return torch.softmax(scores, -1, out=weights)


def _chunk_rows(queries: Tensor, layout: _Layout) -> int:
    return min(max(1, _CHUNK // layout.mask.numel()), queries.shape[0])


def _chunks(
    queries: Tensor, heads: int, layout: _Layout
) -> Iterator[tuple[tuple[slice, slice, slice], Tensor, Tensor, Tensor]]:
    """Index of each chunk of rows and head, and buffers: scores, weights, and products shaped like the queries."""
    size, head_dim = _chunk_rows(queries, layout), queries.shape[2] // heads
    # Reused, because allocating memory costs more than the arithmetic.
    scores, weights = queries.new_empty(2, size, *layout.mask.shape)
    products = queries.new_empty(size, queries.shape[1], head_dim)
    rows = queries.shape[0] - layout.window + 1  # the rest are filler rows
    for first in range(0, rows, size):
        count = min(size, rows - first)
        for head in range(heads):
            part = slice(first, first + count), slice(None), slice(head * head_dim, (head + 1) * head_dim)
            yield part, scores[:count], weights[:count], products[:count]
