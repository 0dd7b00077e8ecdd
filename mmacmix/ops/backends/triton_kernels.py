"""Neighbourhood attention in fused Triton kernels, forward and backward; CUDA.

A program holds a tile of queries. The keys that any of them can see form a slightly larger tile, read with reflected
indices, so that nothing is padded or copied. The program loops over the rows of that tile with an online softmax
(Milakov and Gimelshein, 2018; Dao et al., arXiv 2205.14135), and a mask removes the keys outside each query's window.
Only the output and the log-sum-exp are kept for backward.

Backward recomputes the weights. For the gradients of key and value, a program holds a tile of *keys* and gathers from
the queries that see them, directly or by reflection: without atomic additions, results are deterministic.

A dilated window sees every ``dilation``-th pixel: each tile consists of pixels of one residue modulo the dilation.

The kernels optionally add the terms of the ACmix layer (arXiv 2111.14556, section 3.2). With ``q' = q + query_bias``
and the coordinates (x_j, y_j) of key j, see ``mmacmix.ops.coordinate_map``,

    score_ij = (q'_i . k_j - x_j slope_x_i - y_j slope_y_i) / sqrt(head_dim),   slope_i = q'_i . position,
    output_i = rate * sum_j softmax_j(score_ij) v_j,

which equals attention to the keys ``k_j - position (x_j, y_j)`` without computing a map of these.
"""

import functools
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..borders import residues_and_step
from ..sizes import ceil_div
from .derivatives import refuse_second_derivatives

_MASKED = tl.constexpr(-1e30)  # finite, because the difference of two infinities is NaN
_LOG2E = math.log2(math.e)
_LN2 = tl.constexpr(1 / _LOG2E)


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int,
    stride: int,
    dilation: int,
    query_bias: Tensor | None = None,
    position: Tensor | None = None,
    rate: Tensor | None = None,
) -> Tensor:
    """See ``mmacmix.ops.neighborhood_attention``. Products and softmax accumulate in float32.

    The last three arguments are the terms of the ACmix layer in the module's docstring, given together or not at all.
    They may have any floating-point dtype; the bias is rounded to the query's dtype, the others are read as float32.

    Args:
        query_bias: ``(heads, head_dim)``, added to each query. Default: None.
        position: ``(head_dim, 2)``, weights of the horizontal and the vertical coordinate. Default: None.
        rate: ``(1,)``, factor of the output. Default: None.
    """
    maps = [each[:, None] for each in (query, key, value)]
    return attend_to_maps(maps, kernel_size, stride, dilation, query_bias, position, rate)


def attend_to_maps(
    maps: list[Tensor],
    kernel_size: int,
    stride: int,
    dilation: int,
    query_bias: Tensor | None = None,
    position: Tensor | None = None,
    rate: Tensor | None = None,
) -> Tensor:
    """``neighborhood_attention`` of projections that share tensors, whose gradients then share tensors, too.

    Args:
        maps: Query, key and value together, ``(B, 3, heads, head_dim, H, W)``; or the query, ``(B, 1, ...)``, and key
            and value together, ``(B, 2, ...)``; or three tensors ``(B, 1, ...)``.
    """
    return _attend(maps, kernel_size, stride, dilation, query_bias, position, rate)[0]


# -- kernels ---------------------------------------------------------------------------------------
# Tensors are followed by their strides: batch, head, channel (d), row (y), column (x). ``slopes`` and ``delta`` are
# float32 planes of the queries' shape (B, heads, H, W). Scores are multiplied by log2(e), for a softmax to base 2.

#: Arguments that differ between images of different sizes. Triton would compile a kernel for each of their
#: divisibilities by 16, and the terms may lie anywhere in a larger tensor.
_UNSPECIALIZED = (
    'heads', 'height', 'width', 'query_height', 'query_width', 'tiles', 'tiles_x', 'plane_size',
    'query_bias', 'position', 'rate',
)  # fmt: skip
_jit = triton.jit(do_not_specialize=_UNSPECIALIZED)


@triton.jit
def _reflect(position, length):
    """See ``mmacmix.ops.borders.reflect``."""
    period = tl.maximum(2 * (length - 1), 1)
    folded = position % period
    folded = tl.where(folded < 0, folded + period, folded)
    return tl.minimum(folded, period - folded)


@triton.jit
def _floor_div(a, b):
    quotient = a // b
    return tl.where(quotient * b > a, quotient - 1, quotient)


@triton.jit
def _ceil_div(a, b):
    return -_floor_div(-a, b)


@triton.jit
def _program(heads, tiles):
    """Batch, head and tile of this program. Heads are innermost: programs on the same pixels share the cache."""
    program = tl.program_id(0)
    tile = program // heads
    return (tile // tiles).to(tl.int64), (program % heads).to(tl.int64), tile % tiles


@triton.jit
def _tile(
    tile, height, width, tiles_x, HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, RESIDUES: tl.constexpr,
):  # fmt: skip
    """The program's tile: first row and column, rows and columns, channels; masks of pixels, channels and both."""
    tile, residue = tile // (RESIDUES * RESIDUES), tile % (RESIDUES * RESIDUES)
    first_y = residue // RESIDUES + tile // tiles_x * ROWS * RESIDUES
    first_x = residue % RESIDUES + tile % tiles_x * COLUMNS * RESIDUES
    pixel = tl.arange(0, ROWS * COLUMNS)
    y = first_y + pixel // COLUMNS * RESIDUES
    x = first_x + pixel % COLUMNS * RESIDUES
    d = tl.arange(0, CHANNELS)
    inside = (y < height) & (x < width)
    in_head = (d < HEAD_DIM)[None, :]
    return first_y, first_x, y, x, d, inside, in_head, inside[:, None] & in_head


@triton.jit
def _offsets(pixels, d, step, step_d):
    """Pointer offsets, (pixels, channels). 64 bits, because one image may have more than 2^31 elements."""
    return (pixels.to(tl.int64) * step)[:, None] + (d.to(tl.int64) * step_d)[None, :]


@triton.jit
def _row(plane, y, step_y):
    return plane + y.to(tl.int64) * step_y


@triton.jit
def _load(plane, y, x, d, step_y, step_x, step_d, mask):
    offsets = (y.to(tl.int64) * step_y)[:, None] + _offsets(x, d, step_x, step_d)
    return tl.load(plane + offsets, mask=mask, other=0.0)


@triton.jit
def _store(plane, y, x, d, step_y, step_x, step_d, mask, values):
    offsets = (y.to(tl.int64) * step_y)[:, None] + _offsets(x, d, step_x, step_d)
    tl.store(plane + offsets, values.to(plane.dtype.element_ty), mask=mask)


@triton.jit
def _load_bias(query_bias, head, d, dtype, HEAD_DIM: tl.constexpr):
    """The head's bias, (1, channels), in the query's dtype, in which it is added."""
    return tl.load(query_bias + head * HEAD_DIM + d, mask=d < HEAD_DIM, other=0.0).to(dtype)[None, :]


@triton.jit
def _load_position(position, d, HEAD_DIM: tl.constexpr):
    """The weights of the horizontal and the vertical coordinate."""
    in_head = d < HEAD_DIM
    of_x = tl.load(position + d * 2, mask=in_head, other=0.0).to(tl.float32)
    of_y = tl.load(position + d * 2 + 1, mask=in_head, other=0.0).to(tl.float32)
    return of_x, of_y


@triton.jit
def _slopes(q, position_x, position_y, scale):
    """By how much each query's scores decrease per unit of the key's coordinates."""
    wide = q.to(tl.float32)
    slope_x = tl.sum(wide * position_x[None, :], 1) * scale
    slope_y = tl.sum(wide * position_y[None, :], 1) * scale
    return slope_x, slope_y


@triton.jit
def _window(
    first_x, width, KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, STEP: tl.constexpr,
    QUERY_ROWS: tl.constexpr, QUERY_COLUMNS: tl.constexpr, KEY_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Columns of the keys that a tile of queries sees; which of them each query sees; each query's first key row."""
    column = tl.arange(0, KEY_COLUMNS)
    key_x = _reflect(first_x * STRIDE - KERNEL // 2 * DILATION + column * DILATION, width)
    queries = tl.arange(0, QUERY_ROWS * QUERY_COLUMNS)
    offset = column[None, :] - (queries % QUERY_COLUMNS * STEP)[:, None]
    return key_x, (offset >= 0) & (offset < KERNEL), queries // QUERY_COLUMNS * STEP


@_jit
def _forward_kernel(
    query, key, value, output, lse_map, query_bias, position, rate,
    query_b, query_h, query_d, query_y, query_x,
    key_b, key_h, key_d, key_y, key_x,
    value_b, value_h, value_d, value_y, value_x,
    output_b, output_h, output_d, output_y, output_x,
    heads, height, width, query_height, query_width, tiles, tiles_x, scale, unit_y, unit_x,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr, TERMS: tl.constexpr,
    QUERY_ROWS: tl.constexpr, QUERY_COLUMNS: tl.constexpr, KEY_COLUMNS: tl.constexpr, KERNEL: tl.constexpr,
    STRIDE: tl.constexpr, DILATION: tl.constexpr, RESIDUES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    batch, head, tile = _program(heads, tiles)
    query += batch * query_b + head * query_h
    key += batch * key_b + head * key_h
    value += batch * value_b + head * value_h
    output += batch * output_b + head * output_h
    lse_map += (batch * heads + head) * query_height * query_width
    first_y, first_x, y, x, d, inside, in_head, mask = _tile(
        tile, query_height, query_width, tiles_x, HEAD_DIM, CHANNELS, QUERY_ROWS, QUERY_COLUMNS, RESIDUES
    )
    q = _load(query, y, x, d, query_y, query_x, query_d, mask)
    columns, in_columns, top = _window(
        first_x, width, KERNEL, STRIDE, DILATION, STEP, QUERY_ROWS, QUERY_COLUMNS, KEY_COLUMNS
    )
    key_columns = _offsets(columns, d, key_x, key_d)
    value_columns = _offsets(columns, d, value_x, value_d)
    if TERMS:
        q += _load_bias(query_bias, head, d, q.dtype, HEAD_DIM)
        position_x, position_y = _load_position(position, d, HEAD_DIM)
        slope_x, slope_y = _slopes(q, position_x, position_y, scale)
        coordinate_x = columns.to(tl.float32) * unit_x - 1

    m = tl.full((QUERY_ROWS * QUERY_COLUMNS,), _MASKED, tl.float32)
    l = tl.zeros((QUERY_ROWS * QUERY_COLUMNS,), tl.float32)  # noqa: E741
    acc = tl.zeros((QUERY_ROWS * QUERY_COLUMNS, CHANNELS), tl.float32)
    for row in range((QUERY_ROWS - 1) * STEP + KERNEL):
        key_row = _reflect(first_y * STRIDE - KERNEL // 2 * DILATION + row * DILATION, height)
        k = tl.load(_row(key, key_row, key_y) + key_columns, mask=in_head, other=0.0)
        v = tl.load(_row(value, key_row, value_y) + value_columns, mask=in_head, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if TERMS:
            coordinate_y = key_row.to(tl.float32) * unit_y - 1
            score -= slope_x[:, None] * coordinate_x[None, :] + (slope_y * coordinate_y)[:, None]
        in_rows = (row >= top) & (row < top + KERNEL)
        score = tl.where(in_rows[:, None] & in_columns, score, _MASKED)
        m_new = tl.maximum(m, tl.max(score, 1))
        weight = tl.exp2(score - m_new[:, None])
        alpha = tl.exp2(m - m_new)
        # Rows before a query's window are fully masked; the first unmasked row rescales their sums to zero.
        l = l * alpha + tl.sum(weight, 1)  # noqa: E741
        acc = acc * alpha[:, None] + tl.dot(weight.to(v.dtype), v, input_precision=PRECISION)
        m = m_new
    factor = 1 / l
    if TERMS:
        factor *= tl.load(rate).to(tl.float32)
    _store(output, y, x, d, output_y, output_x, output_d, mask, acc * factor[:, None])
    tl.store(lse_map + y * query_width + x, m + tl.log2(l), mask=inside)


@_jit
def _grad_query_kernel(
    query, key, value, grad, output, grad_query, lse_map, planes, partial_sums, query_bias, position, rate,
    query_b, query_h, query_d, query_y, query_x,
    key_b, key_h, key_d, key_y, key_x,
    value_b, value_h, value_d, value_y, value_x,
    grad_b, grad_h, grad_d, grad_y, grad_x,
    output_b, output_h, output_d, output_y, output_x,
    grad_query_b, grad_query_h, grad_query_d, grad_query_y, grad_query_x,
    heads, height, width, query_height, query_width, tiles, tiles_x, scale, unit_y, unit_x, plane_size,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr, TERMS: tl.constexpr,
    QUERY_ROWS: tl.constexpr, QUERY_COLUMNS: tl.constexpr, KEY_COLUMNS: tl.constexpr, KERNEL: tl.constexpr,
    STRIDE: tl.constexpr, DILATION: tl.constexpr, RESIDUES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Also stores delta and, with terms, the slopes; and this program's sums for the gradients of bias and position."""
    batch, head, tile = _program(heads, tiles)
    query += batch * query_b + head * query_h
    key += batch * key_b + head * key_h
    value += batch * value_b + head * value_h
    grad += batch * grad_b + head * grad_h
    output += batch * output_b + head * output_h
    grad_query += batch * grad_query_b + head * grad_query_h
    plane = (batch * heads + head) * query_height * query_width
    first_y, first_x, y, x, d, inside, in_head, mask = _tile(
        tile, query_height, query_width, tiles_x, HEAD_DIM, CHANNELS, QUERY_ROWS, QUERY_COLUMNS, RESIDUES
    )
    pixel = plane + y * query_width + x
    q = _load(query, y, x, d, query_y, query_x, query_d, mask)
    g = _load(grad, y, x, d, grad_y, grad_x, grad_d, mask)
    # d score = weight * (d weight - sum(weight * d weight)), and that sum is delta = output . d output
    out = _load(output, y, x, d, output_y, output_x, output_d, mask)
    delta = tl.sum(out.to(tl.float32) * g.to(tl.float32), 1)
    tl.store(planes + pixel, delta, mask=inside)
    lse = tl.load(lse_map + pixel, mask=inside, other=-_MASKED)  # weights outside the map are zero
    columns, in_columns, top = _window(
        first_x, width, KERNEL, STRIDE, DILATION, STEP, QUERY_ROWS, QUERY_COLUMNS, KEY_COLUMNS
    )
    key_columns = _offsets(columns, d, key_x, key_d)
    value_columns = _offsets(columns, d, value_x, value_d)
    if TERMS:
        q += _load_bias(query_bias, head, d, q.dtype, HEAD_DIM)
        position_x, position_y = _load_position(position, d, HEAD_DIM)
        slope_x, slope_y = _slopes(q, position_x, position_y, scale)
        tl.store(planes + plane_size + pixel, slope_x, mask=inside)
        tl.store(planes + plane_size + plane_size + pixel, slope_y, mask=inside)  # 2 * plane_size may exceed 32 bits
        coordinate_x = columns.to(tl.float32) * unit_x - 1
        factor = tl.load(rate).to(tl.float32)
        # The score gradients of a query add up to zero, so the gradients of the slopes do not depend on the origin.
        # Distances from the tile lose less to cancellation than coordinates.
        sum_of_scores = tl.zeros((QUERY_ROWS * QUERY_COLUMNS, KEY_COLUMNS), tl.float32)
        sum_over_y = tl.zeros((QUERY_ROWS * QUERY_COLUMNS, KEY_COLUMNS), tl.float32)

    acc = tl.zeros((QUERY_ROWS * QUERY_COLUMNS, CHANNELS), tl.float32)
    for row in range((QUERY_ROWS - 1) * STEP + KERNEL):
        key_row = _reflect(first_y * STRIDE - KERNEL // 2 * DILATION + row * DILATION, height)
        k = tl.load(_row(key, key_row, key_y) + key_columns, mask=in_head, other=0.0)
        v = tl.load(_row(value, key_row, value_y) + value_columns, mask=in_head, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        grad_weight = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        if TERMS:
            coordinate_y = key_row.to(tl.float32) * unit_y - 1
            score -= slope_x[:, None] * coordinate_x[None, :] + (slope_y * coordinate_y)[:, None]
            grad_weight *= factor
        in_rows = (row >= top) & (row < top + KERNEL)
        weight = tl.where(in_rows[:, None] & in_columns, tl.exp2(score - lse[:, None]), 0.0)
        grad_score = weight * (grad_weight - delta[:, None])
        if KERNEL == 1:  # softmax over one key is constant; rounding errors would remain
            grad_score = tl.zeros_like(grad_score)
        if TERMS:
            sum_of_scores += grad_score
            sum_over_y += grad_score * (key_row - first_y * STRIDE).to(tl.float32)
        acc += tl.dot(grad_score.to(k.dtype), k, input_precision=PRECISION)
    if TERMS:
        distance_x = (columns - first_x * STRIDE).to(tl.float32)
        grad_slope_x = -tl.sum(sum_of_scores * distance_x[None, :], 1) * unit_x
        grad_slope_y = -tl.sum(sum_over_y, 1) * unit_y
        acc += grad_slope_x[:, None] * position_x[None, :] + grad_slope_y[:, None] * position_y[None, :]
    acc *= scale * _LN2
    _store(grad_query, y, x, d, grad_query_y, grad_query_x, grad_query_d, mask, acc)
    if TERMS:
        sums = partial_sums + tl.program_id(0).to(tl.int64) * (3 * HEAD_DIM) + d * 3
        wide = q.to(tl.float32) * (scale * _LN2)
        tl.store(sums, tl.sum(acc, 0), mask=d < HEAD_DIM)
        tl.store(sums + 1, tl.sum(wide * grad_slope_x[:, None], 0), mask=d < HEAD_DIM)
        tl.store(sums + 2, tl.sum(wide * grad_slope_y[:, None], 0), mask=d < HEAD_DIM)


@triton.jit
def _queries_around(first, sign, shift, keys, queries, INVERSE: tl.constexpr, KERNEL: tl.constexpr,
                    STRIDE: tl.constexpr, DILATION: tl.constexpr, RESIDUES: tl.constexpr):  # fmt: skip
    """Queries along an axis whose windows reach a mirror image of a tile: their residue, and start and stop in it.

    The tile's pixels are ``first, first + DILATION, ...``, mirrored to ``sign * pixel + shift``.
    """
    common: tl.constexpr = DILATION // RESIDUES
    reach: tl.constexpr = KERNEL // 2 * DILATION
    one_end = sign * first + shift
    other_end = one_end + sign * (keys - 1) * DILATION
    low, high = tl.minimum(one_end, other_end), tl.maximum(one_end, other_end)
    # A query at i * STRIDE sees pixels of its own residue modulo DILATION.
    quotient = _floor_div(low, common)
    residue = quotient * INVERSE % RESIDUES
    residue = tl.where(residue < 0, residue + RESIDUES, residue)
    start = tl.maximum(_ceil_div(_ceil_div(low - reach, STRIDE) - residue, RESIDUES), 0)
    stop = _floor_div(tl.minimum(_floor_div(high + reach, STRIDE), queries - 1) - residue, RESIDUES) + 1
    stop = tl.where(quotient * common == low, stop, start)  # otherwise no query has that residue
    return residue, start, stop


@_jit
def _grad_key_value_kernel(
    query, key, value, grad, grad_key, grad_value, lse_map, planes, partial_sums, query_bias, rate,
    query_b, query_h, query_d, query_y, query_x,
    key_b, key_h, key_d, key_y, key_x,
    value_b, value_h, value_d, value_y, value_x,
    grad_b, grad_h, grad_d, grad_y, grad_x,
    grad_key_b, grad_key_h, grad_key_d, grad_key_y, grad_key_x,
    grad_value_b, grad_value_h, grad_value_d, grad_value_y, grad_value_x,
    heads, height, width, query_height, query_width, tiles, tiles_x, scale, unit_y, unit_x, plane_size,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr, TERMS: tl.constexpr,
    KEY_ROWS: tl.constexpr, KEY_COLUMNS: tl.constexpr, QUERY_COLUMNS: tl.constexpr, KERNEL: tl.constexpr,
    STRIDE: tl.constexpr, DILATION: tl.constexpr, RESIDUES: tl.constexpr, INVERSE: tl.constexpr,
):  # fmt: skip
    """Also stores this program's sum for the gradient of the rate."""
    batch, head, tile = _program(heads, tiles)
    query += batch * query_b + head * query_h
    key += batch * key_b + head * key_h
    value += batch * value_b + head * value_h
    grad += batch * grad_b + head * grad_h
    grad_key += batch * grad_key_b + head * grad_key_h
    grad_value += batch * grad_value_b + head * grad_value_h
    plane = (batch * heads + head) * query_height * query_width
    first_y, first_x, y, x, d, _, in_head, mask = _tile(
        tile, height, width, tiles_x, HEAD_DIM, CHANNELS, KEY_ROWS, KEY_COLUMNS, DILATION
    )
    k = _load(key, y, x, d, key_y, key_x, key_d, mask)
    v = _load(value, y, x, d, value_y, value_x, value_d, mask)
    if TERMS:
        bias = _load_bias(query_bias, head, d, k.dtype, HEAD_DIM)
        factor = tl.load(rate).to(tl.float32)
        coordinate_y = y.to(tl.float32) * unit_y - 1
        coordinate_x = x.to(tl.float32) * unit_x - 1
    reach: tl.constexpr = KERNEL // 2 * DILATION
    period_y, period_x = tl.maximum(2 * (height - 1), 1), tl.maximum(2 * (width - 1), 1)
    # Windows do not reach mirror images further out.
    periods_y, periods_x = tl.cdiv(reach + height, period_y), tl.cdiv(reach + width, period_x)
    acc_k = tl.zeros((KEY_ROWS * KEY_COLUMNS, CHANNELS), tl.float32)
    acc_v = tl.zeros((KEY_ROWS * KEY_COLUMNS, CHANNELS), tl.float32)

    # Mirror images of a pixel on an axis of length L: (2 L - 2) n + pixel, itself for n = 0, and (2 L - 2) n - pixel.
    # Most tiles are reached by themselves only. The rows of queries are the innermost loop, which is pipelined.
    for index_y in range(-periods_y * 2, periods_y * 2 + 2):
        sign_y = tl.where(index_y % 2 == 0, 1, -1)
        shift_y = _floor_div(index_y, 2) * period_y
        residue_y, start_y, stop_y = _queries_around(
            first_y, sign_y, shift_y, KEY_ROWS, query_height, INVERSE, KERNEL, STRIDE, DILATION, RESIDUES
        )
        # Border pixels coincide with one of their mirror images and count once.
        once_y = (y < height) & ((sign_y > 0) | ((y > 0) & (y < height - 1)))
        mirror_y = sign_y * y + shift_y
        if start_y < stop_y:
            for index_x in range(-periods_x * 2, periods_x * 2 + 2):
                sign_x = tl.where(index_x % 2 == 0, 1, -1)
                shift_x = _floor_div(index_x, 2) * period_x
                residue_x, start_x, stop_x = _queries_around(
                    first_x, sign_x, shift_x, KEY_COLUMNS, query_width, INVERSE, KERNEL, STRIDE, DILATION, RESIDUES
                )
                if start_x < stop_x:
                    once_x = (x < width) & ((sign_x > 0) | ((x > 0) & (x < width - 1)))
                    mirror_x = sign_x * x + shift_x
                    query_column = start_x + tl.arange(0, QUERY_COLUMNS)
                    i_x = residue_x + query_column * RESIDUES
                    inside = query_column < stop_x
                    in_columns = once_x[:, None] & (tl.abs(mirror_x[:, None] - (i_x * STRIDE)[None, :]) <= reach)
                    in_columns = in_columns & inside[None, :]
                    in_map = inside[:, None] & in_head
                    query_columns = _offsets(i_x, d, query_x, query_d)
                    grad_columns = _offsets(i_x, d, grad_x, grad_d)
                    for query_row in range(start_y, stop_y):
                        i_y = residue_y + query_row * RESIDUES
                        in_rows = once_y & (tl.abs(mirror_y - i_y * STRIDE) <= reach)
                        q = tl.load(_row(query, i_y, query_y) + query_columns, mask=in_map, other=0.0)
                        g = tl.load(_row(grad, i_y, grad_y) + grad_columns, mask=in_map, other=0.0)
                        pixel = plane + i_y * query_width + i_x
                        lse = tl.load(lse_map + pixel, mask=inside, other=0.0)
                        delta = tl.load(planes + pixel, mask=inside, other=0.0)
                        if TERMS:
                            q += bias
                        score = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
                        grad_weight = tl.dot(v, tl.trans(g), input_precision=PRECISION)
                        if TERMS:
                            slope_x = tl.load(planes + plane_size + pixel, mask=inside, other=0.0)
                            slope_y = tl.load(planes + plane_size + plane_size + pixel, mask=inside, other=0.0)
                            score -= coordinate_x[:, None] * slope_x[None, :] + coordinate_y[:, None] * slope_y[None, :]
                            grad_weight *= factor
                        seen = in_rows[:, None] & in_columns
                        weight = tl.where(seen, tl.exp2(score - lse[None, :]), 0.0)
                        acc_v += tl.dot(weight.to(g.dtype), g, input_precision=PRECISION)
                        grad_score = weight * (grad_weight - delta[None, :])
                        if KERNEL == 1:
                            grad_score = tl.zeros_like(grad_score)
                        acc_k += tl.dot(grad_score.to(q.dtype), q, input_precision=PRECISION)
    if TERMS:
        tl.store(partial_sums + tl.program_id(0), tl.sum(tl.sum(v.to(tl.float32) * acc_v, 1), 0))
        acc_v *= factor
    _store(grad_key, y, x, d, grad_key_y, grad_key_x, grad_key_d, mask, acc_k * (scale * _LN2))
    _store(grad_value, y, x, d, grad_value_y, grad_value_x, grad_value_d, mask, acc_v)


# -- launches --------------------------------------------------------------------------------------


class _Tiling(NamedTuple):
    """A program's tile of one map, queries or keys, and the row of the other map that it loads at a time."""

    rows: int
    columns: int
    other_columns: int
    num_warps: int
    num_stages: int  # of the pipeline

    def shared_memory(self, head_dim: int, dtype: torch.dtype) -> int:
        """An upper bound in bytes, found by compiling: operands are stored before products, some of them twice."""
        pixels = self.rows * self.columns
        loaded = 3 * pixels + (2 * self.num_stages + 1) * self.other_columns
        return loaded * _padded(head_dim) * dtype.itemsize + 2 * pixels * self.other_columns * 4


_SHARED_MEMORY = 99 * 1024  # bytes per program, on the smallest GPUs since compute capability 8.0
#: Pixels, warps and pipeline stages of a tile of queries and of a tile of keys, by padded head_dim, where products use
#: tensor cores and where they do not (float32 without TF32). The accumulators stay in registers, see the tests.
_TENSOR_CORES = {
    16: ((32, 2, 3), (32, 2, 2)),
    32: ((32, 2, 3), (32, 2, 3)),
    64: ((32, 2, 3), (32, 2, 3)),
    128: ((16, 2, 3), (16, 4, 2)),
    256: ((16, 4, 2), (16, 8, 1)),
}
_SCALAR = {
    16: ((16, 1, 2), (16, 1, 2)),
    32: ((16, 2, 2), (16, 2, 2)),
    64: ((16, 4, 2), (16, 4, 2)),
    128: ((16, 8, 2), (16, 8, 2)),
    256: ((16, 8, 1), (16, 8, 1)),
}


def float32_precision() -> str:
    """How products of float32 are computed, as PyTorch's setting for matrix products says."""
    matmul = torch.backends.cuda.matmul
    # Since torch 2.9, reading allow_tf32 raises RuntimeError where the newer setting is in use.
    setting = getattr(matmul, 'fp32_precision', None)
    tf32 = matmul.allow_tf32 if setting is None else setting == 'tf32'
    return 'tf32' if tf32 else 'ieee'


def _padded(size: int) -> int:
    """A side that tl.dot accepts."""
    return max(16, triton.next_power_of_2(size))


def _tiling(
    head_dim: int, dtype: torch.dtype, kernel_size: int, step: int, of_keys: bool = False, precision: str | None = None
) -> _Tiling:
    """Tiling of the queries, or of the keys.

    Args:
        step: Keys from one query to the next along a row.
        precision: Of products in float32. Default: None, as set now.
    """
    scalar = dtype == torch.float32 and (precision or float32_precision()) == 'ieee'
    pixels, num_warps, num_stages = (_SCALAR if scalar else _TENSOR_CORES)[_padded(head_dim)][of_keys]
    columns = 8
    if of_keys:
        other_columns = _padded((columns + kernel_size - 2) // step + 1)
    else:
        other_columns, narrower = (_padded((side - 1) * step + kernel_size) for side in (columns, 4))
        if narrower < other_columns:  # otherwise padding makes a narrower tile load as much
            columns, other_columns = 4, narrower
            if pixels == 32:
                pixels, num_warps = 16, num_warps // 2
    tiling = _Tiling(pixels // columns, columns, other_columns, num_warps, num_stages)
    while tiling.num_stages > 1 and tiling.shared_memory(head_dim, dtype) > _SHARED_MEMORY:
        tiling = tiling._replace(num_stages=tiling.num_stages - 1)
    return tiling


@functools.lru_cache(maxsize=64)
def supports(head_dim: int, dtype: torch.dtype, kernel_size: int, stride: int, dilation: int) -> bool:
    """Whether forward and backward fit in the shared memory of every GPU of compute capability 8.0 or newer."""
    if dtype not in (torch.float32, torch.float16, torch.bfloat16) or _padded(head_dim) > max(_TENSOR_CORES):
        return False
    step = residues_and_step(stride, dilation)[1]
    tilings = [
        _tiling(head_dim, dtype, kernel_size, step, of_keys, precision)
        for of_keys in (False, True)
        for precision in ('ieee', 'tf32')
    ]
    return all(tiling.shared_memory(head_dim, dtype) <= _SHARED_MEMORY for tiling in tilings)


def _tiles(tiling: _Tiling, sides: tuple[int, int], residues: int) -> tuple[int, int]:
    """Number of tiles of an image, and of each row of tiles of one residue."""
    tiles_y, tiles_x = (ceil_div(side, residues * tile) for side, tile in zip(sides, tiling[:2], strict=True))
    return tiles_y * tiles_x * residues**2, tiles_x


def _launch(kernel, maps, others, query, key, tiling, tiled, residues, constants, plane_size=None) -> None:
    """Run a kernel on tiles of ``tiled``, query or key."""
    batch, heads, head_dim = key.shape[:3]
    tiles, tiles_x = _tiles(tiling, tiled.shape[3:], residues)
    programs = batch * tiles * heads
    if programs >= 2**31:
        raise ValueError(f'neighborhood_attention: {programs} tiles exceed the {2**31 - 1} programs of a launch')
    units = [2 / max(side - 1, 1) for side in key.shape[3:]]  # of the coordinates
    # Kernels start on the current GPU, which may differ from the tensors'.
    with torch.cuda.device(key.device if key.is_cuda else -1):
        kernel[(programs,)](
            *maps, *others, *(step for each in maps for step in each.stride()),
            heads, *key.shape[3:], *query.shape[3:], tiles, tiles_x, head_dim**-0.5 * _LOG2E, *units,
            *([] if plane_size is None else [plane_size]),
            head_dim, _padded(head_dim), float32_precision(), others[-1] is not None, tiling.rows, tiling.columns,
            tiling.other_columns, *constants, num_warps=tiling.num_warps, num_stages=tiling.num_stages,
        )  # fmt: skip


# Maps that share a tensor, such as slices of one convolution's output, come as one tensor (B, n, heads, d, H, W), and
# so do their gradients: one tensor for query, key and value; or one for the query, one for both others; or three.


@torch.library.custom_op('mmacmix::neighborhood_attention', mutates_args=())
def _attend(
    maps: list[Tensor],
    kernel_size: int,
    stride: int,
    dilation: int,
    query_bias: Tensor | None,
    position: Tensor | None,
    rate: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output, and the base-2 log-sum-exp of the scores."""
    query, key, value = _parts(maps)
    head_dim = query.shape[2]
    if not supports(head_dim, query.dtype, kernel_size, stride, dilation):  # backward may need more memory than forward
        raise ValueError(
            f"the backend 'triton' does not support head_dim {head_dim} in {query.dtype} "
            f'with kernel_size {kernel_size}, stride {stride} and dilation {dilation}'
        )
    output, lse = _empty(maps, kernel_size, stride, dilation, query_bias, position, rate)
    residues, step = residues_and_step(stride, dilation)
    tiling = _tiling(head_dim, query.dtype, kernel_size, step)
    constants = kernel_size, stride, dilation, residues, step
    terms = _contiguous(query_bias, position, rate)
    _launch(_forward_kernel, [query, key, value, output], [lse, *terms], query, key, tiling, query, residues, constants)
    return output, lse


@_attend.register_fake
def _empty(maps, kernel_size, stride, dilation, query_bias, position, rate):
    query = _parts(maps)[0]
    batch, heads, _, height, width = query.shape
    return torch.empty_like(query), query.new_empty((batch, heads, height, width), dtype=torch.float32)


def _parts(maps: list[Tensor]) -> list[Tensor]:
    """Query, key and value, ``(B, heads, head_dim, H, W)`` each."""
    return [part for each in maps for part in each.unbind(1)]


def _contiguous(*terms: Tensor | None) -> list[Tensor | None]:
    if len({term is None for term in terms}) > 1:
        raise ValueError('query_bias, position and rate must be given together or not at all')
    return [None if term is None else term.contiguous() for term in terms]


def partial_sums(
    query: Tensor, key: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the gradients of the terms before summation: of bias and position, by tile; of the rate, by program."""
    residues, step = residues_and_step(stride, dilation)
    batch, heads, head_dim = query.shape[:3]
    tilings = (_tiling(head_dim, query.dtype, kernel_size, step, of_keys) for of_keys in (False, True))
    tiles, key_tiles = (
        _tiles(tiling, maps.shape[3:], each)[0]
        for tiling, maps, each in zip(tilings, (query, key), (residues, dilation), strict=True)
    )
    return (batch * tiles, heads, head_dim, 3), (batch * key_tiles * heads,)


@torch.library.custom_op('mmacmix::neighborhood_attention_backward', mutates_args=())
def _attend_backward(
    grad: Tensor,
    maps: list[Tensor],
    output: Tensor,
    lse: Tensor,
    kernel_size: int,
    stride: int,
    dilation: int,
    query_bias: Tensor | None,
    position: Tensor | None,
    rate: Tensor | None,
) -> list[Tensor]:
    """Gradients of the maps and, with these terms, of bias, position and rate."""
    grad_maps = [torch.empty_like(each) for each in maps]
    query, key, value = _parts(maps)
    grad_query, grad_key, grad_value = _parts(grad_maps)
    terms = query_bias, position, rate = _contiguous(query_bias, position, rate)
    residues, step = residues_and_step(stride, dilation)
    tiling, key_tiling = (_tiling(query.shape[2], query.dtype, kernel_size, step, of_keys) for of_keys in (False, True))
    planes = lse.new_empty((1 if rate is None else 3, *lse.shape))  # delta and the slopes
    of_queries = of_keys = None
    if rate is not None:
        of_queries, of_keys = map(lse.new_empty, partial_sums(query, key, kernel_size, stride, dilation))

    tensors = [query, key, value, grad, output, grad_query]
    others = [lse, planes, of_queries, *terms]
    constants = kernel_size, stride, dilation, residues, step
    _launch(_grad_query_kernel, tensors, others, query, key, tiling, query, residues, constants, lse.numel())

    tensors = [query, key, value, grad, grad_key, grad_value]
    others = [lse, planes, of_keys, query_bias, rate]
    constants = kernel_size, stride, dilation, residues, pow(step, -1, residues) if residues > 1 else 0
    _launch(_grad_key_value_kernel, tensors, others, query, key, key_tiling, key, dilation, constants, lse.numel())

    if rate is None:
        return grad_maps
    sums = of_queries[..., 0].sum(0), of_queries[..., 1:].sum((0, 1)), of_keys.sum(0, keepdim=True)
    return [*grad_maps, *(each.to(term.dtype) for each, term in zip(sums, terms, strict=True))]


@_attend_backward.register_fake
def _empty_grads(grad, maps, output, lse, kernel_size, stride, dilation, query_bias, position, rate):
    terms = (term for term in (query_bias, position, rate) if term is not None)
    return [*(torch.empty_like(each) for each in maps), *(term.new_empty(term.shape) for term in terms)]


_attend_backward.register_autograd(refuse_second_derivatives)


def _save(ctx, inputs, output):
    maps, *ctx.window, query_bias, position, rate = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*maps, *output, query_bias, position, rate)


def _differentiate(ctx, grad, _):
    *maps, output, lse, query_bias, position, rate = ctx.saved_tensors
    if grad is None:
        return (None,) * 7
    grads = _attend_backward(grad, maps, output, lse, *ctx.window, query_bias, position, rate)
    terms = (None, None, None) if rate is None else grads[len(maps) :]
    return grads[: len(maps)], None, None, None, *terms


_attend.register_autograd(_differentiate, setup_context=_save)
