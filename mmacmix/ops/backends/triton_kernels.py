"""Neighbourhood attention in fused Triton kernels, forward and backward; CUDA.

A program holds a tile of queries. The keys that any of them can see form a slightly larger tile, read with reflected
indices, so that nothing is padded or copied. The program loops over the rows of that tile with an online softmax
(Milakov and Gimelshein, 2018; Dao et al., arXiv 2205.14135), and a mask removes the keys outside each query's window.
Only the output and the log-sum-exp are kept for backward.

Backward recomputes the weights. For the gradients of key and value, a program holds a tile of *keys* and gathers from
the queries that see them, directly or by reflection: without atomic additions, results are deterministic.

A dilated window sees every ``dilation``-th pixel: each tile consists of pixels of one residue modulo the dilation.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..borders import residues_and_step
from ..sizes import ceil_div

_MASKED = tl.constexpr(-1e30)  # finite, because the difference of two infinities is NaN
_LOG2E = math.log2(math.e)
_LN2 = tl.constexpr(1 / _LOG2E)


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """See ``mmacmix.ops.neighborhood_attention``. Products and softmax accumulate in float32."""
    return _attend(query, key, value, kernel_size, stride, dilation)[0]


# -- kernels ---------------------------------------------------------------------------------------
# Tensors are followed by their strides: batch, head, channel (d), row (y), column (x).


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
def _tile(
    height, width, tiles_x, HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, RESIDUES: tl.constexpr,
):  # fmt: skip
    """The program's tile: first row and column, rows and columns, channels; masks of pixels, channels and both."""
    tile, residue = tl.program_id(0) // (RESIDUES * RESIDUES), tl.program_id(0) % (RESIDUES * RESIDUES)
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
def _offsets(y, x, d, step_y, step_x, step_d):
    """Pointer offsets, (pixels, channels)."""
    return (y * step_y + x * step_x)[:, None] + (d * step_d)[None, :]


@triton.jit
def _load(plane, y, x, d, step_y, step_x, step_d, mask):
    return tl.load(plane + _offsets(y, x, d, step_y, step_x, step_d), mask=mask, other=0.0)


@triton.jit
def _store(plane, y, x, d, step_y, step_x, step_d, mask, values):
    tl.store(plane + _offsets(y, x, d, step_y, step_x, step_d), values.to(plane.dtype.element_ty), mask=mask)


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


@triton.jit
def _forward_kernel(
    query, key, value, output, lse_map,
    query_b, query_h, query_d, query_y, query_x,
    key_b, key_h, key_d, key_y, key_x,
    value_b, value_h, value_d, value_y, value_x,
    output_b, output_h, output_d, output_y, output_x,
    heads, height, width, query_height, query_width, tiles_x, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr, QUERY_ROWS: tl.constexpr,
    QUERY_COLUMNS: tl.constexpr, KEY_COLUMNS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    DILATION: tl.constexpr, RESIDUES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query += batch * query_b + head * query_h
    key += batch * key_b + head * key_h
    value += batch * value_b + head * value_h
    output += batch * output_b + head * output_h
    lse_map += (batch * heads + head) * query_height * query_width
    first_y, first_x, y, x, d, inside, in_head, mask = _tile(
        query_height, query_width, tiles_x, HEAD_DIM, CHANNELS, QUERY_ROWS, QUERY_COLUMNS, RESIDUES
    )
    q = _load(query, y, x, d, query_y, query_x, query_d, mask)
    columns, in_columns, top = _window(
        first_x, width, KERNEL, STRIDE, DILATION, STEP, QUERY_ROWS, QUERY_COLUMNS, KEY_COLUMNS
    )

    m = tl.full((QUERY_ROWS * QUERY_COLUMNS,), _MASKED, tl.float32)
    l = tl.zeros((QUERY_ROWS * QUERY_COLUMNS,), tl.float32)  # noqa: E741
    acc = tl.zeros((QUERY_ROWS * QUERY_COLUMNS, CHANNELS), tl.float32)
    for row in range((QUERY_ROWS - 1) * STEP + KERNEL):
        key_row = _reflect(first_y * STRIDE - KERNEL // 2 * DILATION + row * DILATION, height)
        k = _load(key, key_row, columns, d, key_y, key_x, key_d, in_head)
        v = _load(value, key_row, columns, d, value_y, value_x, value_d, in_head)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        in_rows = (row >= top) & (row < top + KERNEL)
        score = tl.where(in_rows[:, None] & in_columns, score, _MASKED)
        m_new = tl.maximum(m, tl.max(score, 1))
        weight = tl.exp2(score - m_new[:, None])
        alpha = tl.exp2(m - m_new)
        # Rows before a query's window are fully masked; the first unmasked row rescales their sums to zero.
        l = l * alpha + tl.sum(weight, 1)  # noqa: E741
        acc = acc * alpha[:, None] + tl.dot(weight.to(v.dtype), v, input_precision=PRECISION)
        m = m_new
    _store(output, y, x, d, output_y, output_x, output_d, mask, acc / l[:, None])
    tl.store(lse_map + y * query_width + x, m + tl.log2(l), mask=inside)


@triton.jit
def _grad_query_kernel(
    query, key, value, grad, grad_query, lse_map, delta_map,
    query_b, query_h, query_d, query_y, query_x,
    key_b, key_h, key_d, key_y, key_x,
    value_b, value_h, value_d, value_y, value_x,
    grad_b, grad_h, grad_d, grad_y, grad_x,
    grad_query_b, grad_query_h, grad_query_d, grad_query_y, grad_query_x,
    heads, height, width, query_height, query_width, tiles_x, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr, QUERY_ROWS: tl.constexpr,
    QUERY_COLUMNS: tl.constexpr, KEY_COLUMNS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    DILATION: tl.constexpr, RESIDUES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query += batch * query_b + head * query_h
    key += batch * key_b + head * key_h
    value += batch * value_b + head * value_h
    grad += batch * grad_b + head * grad_h
    grad_query += batch * grad_query_b + head * grad_query_h
    plane = (batch * heads + head) * query_height * query_width
    first_y, first_x, y, x, d, inside, in_head, mask = _tile(
        query_height, query_width, tiles_x, HEAD_DIM, CHANNELS, QUERY_ROWS, QUERY_COLUMNS, RESIDUES
    )
    q = _load(query, y, x, d, query_y, query_x, query_d, mask)
    g = _load(grad, y, x, d, grad_y, grad_x, grad_d, mask)
    lse = tl.load(lse_map + plane + y * query_width + x, mask=inside, other=0.0)
    delta = tl.load(delta_map + plane + y * query_width + x, mask=inside, other=0.0)
    columns, in_columns, top = _window(
        first_x, width, KERNEL, STRIDE, DILATION, STEP, QUERY_ROWS, QUERY_COLUMNS, KEY_COLUMNS
    )

    acc = tl.zeros((QUERY_ROWS * QUERY_COLUMNS, CHANNELS), tl.float32)
    for row in range((QUERY_ROWS - 1) * STEP + KERNEL):
        key_row = _reflect(first_y * STRIDE - KERNEL // 2 * DILATION + row * DILATION, height)
        k = _load(key, key_row, columns, d, key_y, key_x, key_d, in_head)
        v = _load(value, key_row, columns, d, value_y, value_x, value_d, in_head)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        in_rows = (row >= top) & (row < top + KERNEL)
        weight = tl.where(in_rows[:, None] & in_columns, tl.exp2(score - lse[:, None]), 0.0)
        grad_weight = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        # d score = weight * (d weight - sum(weight * d weight)), and that sum is delta = output . d output
        grad_score = weight * (grad_weight - delta[:, None])
        acc += tl.dot(grad_score.to(k.dtype), k, input_precision=PRECISION)
    _store(grad_query, y, x, d, grad_query_y, grad_query_x, grad_query_d, mask, acc * (scale * _LN2))


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


@triton.jit
def _grad_key_value_kernel(
    query, key, value, grad, grad_key, grad_value, lse_map, delta_map,
    query_b, query_h, query_d, query_y, query_x,
    key_b, key_h, key_d, key_y, key_x,
    value_b, value_h, value_d, value_y, value_x,
    grad_b, grad_h, grad_d, grad_y, grad_x,
    grad_key_b, grad_key_h, grad_key_d, grad_key_y, grad_key_x,
    grad_value_b, grad_value_h, grad_value_d, grad_value_y, grad_value_x,
    heads, height, width, query_height, query_width, tiles_x, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr, KEY_ROWS: tl.constexpr,
    KEY_COLUMNS: tl.constexpr, QUERY_COLUMNS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    DILATION: tl.constexpr, RESIDUES: tl.constexpr, INVERSE: tl.constexpr,
):  # fmt: skip
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query += batch * query_b + head * query_h
    key += batch * key_b + head * key_h
    value += batch * value_b + head * value_h
    grad += batch * grad_b + head * grad_h
    grad_key += batch * grad_key_b + head * grad_key_h
    grad_value += batch * grad_value_b + head * grad_value_h
    plane = (batch * heads + head) * query_height * query_width
    first_y, first_x, y, x, d, _, in_head, mask = _tile(
        height, width, tiles_x, HEAD_DIM, CHANNELS, KEY_ROWS, KEY_COLUMNS, DILATION
    )
    k = _load(key, y, x, d, key_y, key_x, key_d, mask)
    v = _load(value, y, x, d, value_y, value_x, value_d, mask)
    reach: tl.constexpr = KERNEL // 2 * DILATION
    period_y, period_x = tl.maximum(2 * (height - 1), 1), tl.maximum(2 * (width - 1), 1)
    # Windows do not reach mirror images further out.
    periods_y, periods_x = tl.cdiv(reach + height, period_y), tl.cdiv(reach + width, period_x)
    acc_k = tl.zeros((KEY_ROWS * KEY_COLUMNS, CHANNELS), tl.float32)
    acc_v = tl.zeros((KEY_ROWS * KEY_COLUMNS, CHANNELS), tl.float32)

    # Mirror images of a pixel on an axis of length L: (2 L - 2) n + pixel, itself for n = 0, and (2 L - 2) n - pixel.
    for index_y in range(-periods_y * 2, periods_y * 2 + 2):
        sign_y = tl.where(index_y % 2 == 0, 1, -1)
        shift_y = _floor_div(index_y, 2) * period_y
        residue_y, start_y, stop_y = _queries_around(
            first_y, sign_y, shift_y, KEY_ROWS, query_height, INVERSE, KERNEL, STRIDE, DILATION, RESIDUES
        )
        # Border pixels coincide with one of their mirror images and count once.
        once_y = (y < height) & ((sign_y > 0) | ((y > 0) & (y < height - 1)))
        mirror_y = sign_y * y + shift_y
        for query_row in range(start_y, stop_y):
            i_y = residue_y + query_row * RESIDUES
            in_rows = once_y & (tl.abs(mirror_y - i_y * STRIDE) <= reach)
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
                    q = _load(query, i_y, i_x, d, query_y, query_x, query_d, inside[:, None] & in_head)
                    g = _load(grad, i_y, i_x, d, grad_y, grad_x, grad_d, inside[:, None] & in_head)
                    lse = tl.load(lse_map + plane + i_y * query_width + i_x, mask=inside, other=0.0)
                    delta = tl.load(delta_map + plane + i_y * query_width + i_x, mask=inside, other=0.0)
                    score = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
                    seen = in_rows[:, None] & in_columns & inside[None, :]
                    weight = tl.where(seen, tl.exp2(score - lse[None, :]), 0.0)
                    acc_v += tl.dot(weight.to(g.dtype), g, input_precision=PRECISION)
                    grad_weight = tl.dot(v, tl.trans(g), input_precision=PRECISION)
                    grad_score = weight * (grad_weight - delta[None, :])
                    acc_k += tl.dot(grad_score.to(q.dtype), q, input_precision=PRECISION)
    _store(grad_key, y, x, d, grad_key_y, grad_key_x, grad_key_d, mask, acc_k * (scale * _LN2))
    _store(grad_value, y, x, d, grad_value_y, grad_value_x, grad_value_d, mask, acc_v)


# -- launches --------------------------------------------------------------------------------------

_ROWS = _COLUMNS = 8  # of a tile


def _launch(kernel, maps, statistics, tiled, tile_residues, columns, *constants) -> None:
    """Run a kernel on tiles of ``tiled``, query or key, each of which meets ``columns`` columns of the other map."""
    query, key = maps[:2]
    batch, heads, head_dim = key.shape[:3]
    tiles_y, tiles_x = (
        ceil_div(side, tile_residues * tile) for side, tile in zip(tiled.shape[3:], (_ROWS, _COLUMNS), strict=True)
    )
    channels, columns = (max(16, triton.next_power_of_2(size)) for size in (head_dim, columns))  # for tl.dot
    precision = 'tf32' if torch.backends.cuda.matmul.allow_tf32 else 'ieee'
    # Kernels start on the current GPU, which may differ from the tensors'.
    with torch.cuda.device(key.device if key.is_cuda else -1):
        kernel[tiles_y * tiles_x * tile_residues**2, heads, batch](
            *maps, *statistics, *(step for each in maps for step in each.stride()),
            heads, *key.shape[3:], *query.shape[3:], tiles_x, head_dim**-0.5 * _LOG2E,  # the softmax is to base 2
            head_dim, channels, precision, _ROWS, _COLUMNS, columns, *constants,
            # For wide heads, the shared memory of a small GPU holds one stage of the pipeline.
            num_stages=1 if channels * key.element_size() > 256 else 3,
        )  # fmt: skip


@torch.library.custom_op('mmacmix::neighborhood_attention', mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Output, and the base-2 log-sum-exp of the scores."""
    output, lse = _empty(query, key, value, kernel_size, stride, dilation)
    residues, step = residues_and_step(stride, dilation)
    columns = (_COLUMNS - 1) * step + kernel_size
    constants = kernel_size, stride, dilation, residues, step
    _launch(_forward_kernel, [query, key, value, output], [lse], query, residues, columns, *constants)
    return output, lse


@_attend.register_fake
def _empty(query, key, value, kernel_size, stride, dilation):
    batch, heads, _, height, width = query.shape
    return torch.empty_like(query), query.new_empty((batch, heads, height, width), dtype=torch.float32)


@torch.library.custom_op('mmacmix::neighborhood_attention_backward', mutates_args=())
def _attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    kernel_size: int,
    stride: int,
    dilation: int,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_query, grad_key, grad_value = (torch.empty_like(each) for each in (query, key, value))
    inputs = [query, key, value, grad]
    statistics = [lse, (output.float() * grad.float()).sum(2)]  # the latter is delta
    residues, step = residues_and_step(stride, dilation)
    constants = kernel_size, stride, dilation, residues
    columns = (_COLUMNS - 1) * step + kernel_size
    _launch(_grad_query_kernel, [*inputs, grad_query], statistics, query, residues, columns, *constants, step)
    columns = (_COLUMNS + kernel_size - 2) // step + 1
    inverse = pow(step, -1, residues) if residues > 1 else 0
    maps = [*inputs, grad_key, grad_value]
    _launch(_grad_key_value_kernel, maps, statistics, key, dilation, columns, *constants, inverse)
    return grad_query, grad_key, grad_value


@_attend_backward.register_fake
def _empty_grads(grad, query, key, value, output, lse, kernel_size, stride, dilation):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save(ctx, inputs, output):
    query, key, value, *ctx.window = inputs
    ctx.save_for_backward(query, key, value, *output)


def _differentiate(ctx, grad, _):
    return *_attend_backward(grad, *ctx.saved_tensors, *ctx.window), None, None, None


_attend.register_autograd(_differentiate, setup_context=_save)
