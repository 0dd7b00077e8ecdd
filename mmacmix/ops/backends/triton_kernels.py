"""Neighbourhood attention in fused Triton kernels, forward and backward; CUDA.

A program holds a tile of queries. The keys that any of them can see form a slightly larger tile, whose pixels the
program reads where reflection puts them: nothing is padded or copied. It goes over the rows of that tile with an
online softmax (Milakov and Gimelshein, 2018; Dao et al., arXiv 2205.14135), and a mask removes the keys outside each
query's window. Output and log-sum-exp are all that is kept.

Backward computes the weights again. For the gradients of key and value a program holds a tile of *keys* and gathers
from the queries that see them, directly or as a reflection, so that nothing is added up in an order that chance
decides.

A dilated window sees every ``dilation``-th pixel: all tiles are made of the pixels of one residue.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_MASKED = tl.constexpr(-1e30)  # finite, so that the difference of two of them is no NaN
_LOG2E = math.log2(math.e)


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """See ``mmacmix.ops.neighborhood_attention``. Products and softmax accumulate in float32."""
    return _attend(query, key, value, kernel_size, stride, dilation)[0]


# -- kernels ---------------------------------------------------------------------------------------


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
def _query_tile(tile, residue, tiles_x, QUERY_ROWS: tl.constexpr, QUERY_COLUMNS: tl.constexpr, RESIDUES: tl.constexpr):
    """Row and column of each query of a tile, and of its first one."""
    first_y = residue // RESIDUES + tile // tiles_x * QUERY_ROWS * RESIDUES
    first_x = residue % RESIDUES + tile % tiles_x * QUERY_COLUMNS * RESIDUES
    place = tl.arange(0, QUERY_ROWS * QUERY_COLUMNS)
    return (
        first_y,
        first_x,
        first_y + place // QUERY_COLUMNS * RESIDUES,
        first_x + place % QUERY_COLUMNS * RESIDUES,
    )


@triton.jit
def _offsets(y, x, d, step_y, step_x, step_d):
    """Where a tile's numbers lie: a row a pixel, a column a channel."""
    return (y * step_y + x * step_x)[:, None] + (d * step_d)[None, :]


@triton.jit
def _load(plane, y, x, d, step_y, step_x, step_d, mask):
    return tl.load(plane + _offsets(y, x, d, step_y, step_x, step_d), mask=mask, other=0.0)


@triton.jit
def _window(
    first_x, width, KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, STEP: tl.constexpr,
    QUERY_ROWS: tl.constexpr, QUERY_COLUMNS: tl.constexpr, KEY_COLUMNS: tl.constexpr,
):  # fmt: skip
    """The keys that a tile of queries sees, in steps of DILATION from the first query's first.

    Columns of their pixels; whether each lies in each query's columns; the first row that each query sees.
    """
    column = tl.arange(0, KEY_COLUMNS)
    places = _reflect(first_x * STRIDE - KERNEL // 2 * DILATION + column * DILATION, width)
    queries = tl.arange(0, QUERY_ROWS * QUERY_COLUMNS)
    ahead = column[None, :] - (queries % QUERY_COLUMNS * STEP)[:, None]
    return places, (ahead >= 0) & (ahead < KERNEL), queries // QUERY_COLUMNS * STEP


@triton.jit
def _forward_kernel(
    query, key, value, output, log_sum_exp,
    query_b, query_h, query_d, query_y, query_x,
    key_b, key_h, key_d, key_y, key_x,
    value_b, value_h, value_d, value_y, value_x,
    output_b, output_h, output_d, output_y, output_x,
    heads, height, width, query_height, query_width, tiles_x, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    DILATION: tl.constexpr, RESIDUES: tl.constexpr, STEP: tl.constexpr, QUERY_ROWS: tl.constexpr,
    QUERY_COLUMNS: tl.constexpr, KEY_COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query += image * query_b + head * query_h
    key += image * key_b + head * key_h
    value += image * value_b + head * value_h
    output += image * output_b + head * output_h
    tile, residue = tl.program_id(0) // (RESIDUES * RESIDUES), tl.program_id(0) % (RESIDUES * RESIDUES)
    first_y, first_x, y, x = _query_tile(tile, residue, tiles_x, QUERY_ROWS, QUERY_COLUMNS, RESIDUES)
    d = tl.arange(0, CHANNELS)
    there = (y < query_height) & (x < query_width)
    in_head = (d < HEAD_DIM)[None, :]
    mask = there[:, None] & in_head
    q = _load(query, y, x, d, query_y, query_x, query_d, mask)

    key_x_places, in_columns, top = _window(
        first_x, width, KERNEL, STRIDE, DILATION, STEP, QUERY_ROWS, QUERY_COLUMNS, KEY_COLUMNS
    )

    most = tl.full((QUERY_ROWS * QUERY_COLUMNS,), _MASKED, tl.float32)
    total = tl.zeros((QUERY_ROWS * QUERY_COLUMNS,), tl.float32)
    out = tl.zeros((QUERY_ROWS * QUERY_COLUMNS, CHANNELS), tl.float32)
    for row in range((QUERY_ROWS - 1) * STEP + KERNEL):
        key_row = _reflect(first_y * STRIDE - KERNEL // 2 * DILATION + row * DILATION, height)
        k = _load(key, key_row, key_x_places, d, key_y, key_x, key_d, in_head)
        v = _load(value, key_row, key_x_places, d, value_y, value_x, value_d, in_head)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        in_rows = (row >= top) & (row < top + KERNEL)
        score = tl.where(in_rows[:, None] & in_columns, score, _MASKED)
        higher = tl.maximum(most, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        fade = tl.exp2(most - higher)
        # Before a query's first row all is masked and what adds up is of no account: the first real score fades it.
        total = total * fade + tl.sum(weight, 1)
        out = out * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision=PRECISION)
        most = higher
    out = out / total[:, None]
    tl.store(
        output + _offsets(y, x, d, output_y, output_x, output_d),
        out.to(output.dtype.element_ty),
        mask=mask,
    )
    plane = (image * heads + head) * query_height * query_width
    tl.store(log_sum_exp + plane + y * query_width + x, most + tl.log2(total), mask=there)


@triton.jit
def _grad_query_kernel(
    query, key, value, grad, grad_query, log_sum_exp, inner,
    query_b, query_h, query_d, query_y, query_x,
    key_b, key_h, key_d, key_y, key_x,
    value_b, value_h, value_d, value_y, value_x,
    grad_b, grad_h, grad_d, grad_y, grad_x,
    grad_query_b, grad_query_h, grad_query_d, grad_query_y, grad_query_x,
    heads, height, width, query_height, query_width, tiles_x, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    DILATION: tl.constexpr, RESIDUES: tl.constexpr, STEP: tl.constexpr, QUERY_ROWS: tl.constexpr,
    QUERY_COLUMNS: tl.constexpr, KEY_COLUMNS: tl.constexpr, PRECISION: tl.constexpr, LN2: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query += image * query_b + head * query_h
    key += image * key_b + head * key_h
    value += image * value_b + head * value_h
    grad += image * grad_b + head * grad_h
    grad_query += image * grad_query_b + head * grad_query_h
    tile, residue = tl.program_id(0) // (RESIDUES * RESIDUES), tl.program_id(0) % (RESIDUES * RESIDUES)
    first_y, first_x, y, x = _query_tile(tile, residue, tiles_x, QUERY_ROWS, QUERY_COLUMNS, RESIDUES)
    d = tl.arange(0, CHANNELS)
    there = (y < query_height) & (x < query_width)
    in_head = (d < HEAD_DIM)[None, :]
    mask = there[:, None] & in_head
    q = _load(query, y, x, d, query_y, query_x, query_d, mask)
    g = _load(grad, y, x, d, grad_y, grad_x, grad_d, mask)
    plane = (image * heads + head) * query_height * query_width
    lse = tl.load(log_sum_exp + plane + y * query_width + x, mask=there, other=0.0)
    delta = tl.load(inner + plane + y * query_width + x, mask=there, other=0.0)

    key_x_places, in_columns, top = _window(
        first_x, width, KERNEL, STRIDE, DILATION, STEP, QUERY_ROWS, QUERY_COLUMNS, KEY_COLUMNS
    )

    result = tl.zeros((QUERY_ROWS * QUERY_COLUMNS, CHANNELS), tl.float32)
    for row in range((QUERY_ROWS - 1) * STEP + KERNEL):
        key_row = _reflect(first_y * STRIDE - KERNEL // 2 * DILATION + row * DILATION, height)
        k = _load(key, key_row, key_x_places, d, key_y, key_x, key_d, in_head)
        v = _load(value, key_row, key_x_places, d, value_y, value_x, value_d, in_head)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        in_rows = (row >= top) & (row < top + KERNEL)
        weight = tl.where(in_rows[:, None] & in_columns, tl.exp2(score - lse[:, None]), 0.0)
        grad_weight = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        # d score = weight * (d weight - sum(weight * d weight)), and that sum is output . d output
        grad_score = weight * (grad_weight - delta[:, None])
        result += tl.dot(grad_score.to(k.dtype), k, input_precision=PRECISION)
    result = (result * (scale * LN2)).to(grad_query.dtype.element_ty)
    tl.store(
        grad_query + _offsets(y, x, d, grad_query_y, grad_query_x, grad_query_d),
        result,
        mask=mask,
    )


@triton.jit
def _queries_seen(first, image, step_sign, length_of_tile, queries, INVERSE: tl.constexpr, KERNEL: tl.constexpr,
                  STRIDE: tl.constexpr, DILATION: tl.constexpr, RESIDUES: tl.constexpr):  # fmt: skip
    """The queries along an axis whose windows reach a tile's image: their residue, and the first and last of it.

    The tile's pixels are ``first, first + DILATION, ...``, mapped to ``step_sign * pixel + image``.
    """
    common: tl.constexpr = DILATION // RESIDUES
    reach: tl.constexpr = KERNEL // 2 * DILATION
    one_end = step_sign * first + image
    other_end = one_end + step_sign * (length_of_tile - 1) * DILATION
    low, high = tl.minimum(one_end, other_end), tl.maximum(one_end, other_end)
    # A query at i * STRIDE sees pixels of its own residue modulo DILATION.
    quotient = _floor_div(low, common)
    residue = quotient * INVERSE % RESIDUES
    residue = tl.where(residue < 0, residue + RESIDUES, residue)
    start = tl.maximum(_ceil_div(_ceil_div(low - reach, STRIDE) - residue, RESIDUES), 0)
    stop = _floor_div(tl.minimum(_floor_div(high + reach, STRIDE), queries - 1) - residue, RESIDUES) + 1
    stop = tl.where(quotient * common == low, stop, start)  # else no query has that residue
    return residue, start, stop


@triton.jit
def _grad_key_value_kernel(
    query, key, value, grad, grad_key, grad_value, log_sum_exp, inner,
    query_b, query_h, query_d, query_y, query_x,
    key_b, key_h, key_d, key_y, key_x,
    value_b, value_h, value_d, value_y, value_x,
    grad_b, grad_h, grad_d, grad_y, grad_x,
    grad_key_b, grad_key_h, grad_key_d, grad_key_y, grad_key_x,
    grad_value_b, grad_value_h, grad_value_d, grad_value_y, grad_value_x,
    heads, height, width, query_height, query_width, tiles_x, images_y, images_x, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    DILATION: tl.constexpr, RESIDUES: tl.constexpr, INVERSE: tl.constexpr, KEY_ROWS: tl.constexpr,
    KEY_COLUMNS: tl.constexpr, QUERY_COLUMNS: tl.constexpr, PRECISION: tl.constexpr, LN2: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    query += image * query_b + head * query_h
    key += image * key_b + head * key_h
    value += image * value_b + head * value_h
    grad += image * grad_b + head * grad_h
    grad_key += image * grad_key_b + head * grad_key_h
    grad_value += image * grad_value_b + head * grad_value_h
    tile, residue = tl.program_id(0) // (DILATION * DILATION), tl.program_id(0) % (DILATION * DILATION)
    first_y, first_x, y, x = _query_tile(tile, residue, tiles_x, KEY_ROWS, KEY_COLUMNS, DILATION)
    d = tl.arange(0, CHANNELS)
    in_head = (d < HEAD_DIM)[None, :]
    mask = ((y < height) & (x < width))[:, None] & in_head
    k = _load(key, y, x, d, key_y, key_x, key_d, mask)
    v = _load(value, y, x, d, value_y, value_x, value_d, mask)
    plane = (image * heads + head) * query_height * query_width
    reach: tl.constexpr = KERNEL // 2 * DILATION
    period_y, period_x = tl.maximum(2 * (height - 1), 1), tl.maximum(2 * (width - 1), 1)
    result_k = tl.zeros((KEY_ROWS * KEY_COLUMNS, CHANNELS), tl.float32)
    result_v = tl.zeros((KEY_ROWS * KEY_COLUMNS, CHANNELS), tl.float32)

    # A pixel is seen where it is and wherever reflection shows it: at (2 L - 2) m + pixel and (2 L - 2) m - pixel.
    for index_y in range(-images_y * 2, images_y * 2 + 2):
        sign_y = tl.where(index_y % 2 == 0, 1, -1)
        shift_y = _floor_div(index_y, 2) * period_y
        residue_y, start_y, stop_y = _queries_seen(
            first_y, shift_y, sign_y, KEY_ROWS, query_height, INVERSE, KERNEL, STRIDE, DILATION, RESIDUES
        )
        # The border pixels are their own mirror images: these count once.
        once_y = (y < height) & ((sign_y > 0) | ((y > 0) & (y < height - 1)))
        image_y = sign_y * y + shift_y
        for query_row in range(start_y, stop_y):
            i_y = residue_y + query_row * RESIDUES
            in_rows = once_y & (tl.abs(image_y - i_y * STRIDE) <= reach)
            for index_x in range(-images_x * 2, images_x * 2 + 2):
                sign_x = tl.where(index_x % 2 == 0, 1, -1)
                shift_x = _floor_div(index_x, 2) * period_x
                residue_x, start_x, stop_x = _queries_seen(
                    first_x, shift_x, sign_x, KEY_COLUMNS, query_width, INVERSE, KERNEL, STRIDE, DILATION, RESIDUES
                )
                if start_x < stop_x:
                    once_x = (x < width) & ((sign_x > 0) | ((x > 0) & (x < width - 1)))
                    image_x = sign_x * x + shift_x
                    column = start_x + tl.arange(0, QUERY_COLUMNS)
                    i_x = residue_x + column * RESIDUES
                    there = column < stop_x
                    in_columns = once_x[:, None] & (tl.abs(image_x[:, None] - (i_x * STRIDE)[None, :]) <= reach)
                    load = there[:, None] & in_head
                    q = tl.load(
                        query + _offsets(i_y, i_x, d, query_y, query_x, query_d),
                        mask=load,
                        other=0.0,
                    )
                    g = tl.load(
                        grad + _offsets(i_y, i_x, d, grad_y, grad_x, grad_d),
                        mask=load,
                        other=0.0,
                    )
                    lse = tl.load(log_sum_exp + plane + i_y * query_width + i_x, mask=there, other=0.0)
                    delta = tl.load(inner + plane + i_y * query_width + i_x, mask=there, other=0.0)
                    score = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
                    seen = in_rows[:, None] & in_columns & there[None, :]
                    weight = tl.where(seen, tl.exp2(score - lse[None, :]), 0.0)
                    result_v += tl.dot(weight.to(g.dtype), g, input_precision=PRECISION)
                    grad_weight = tl.dot(v, tl.trans(g), input_precision=PRECISION)
                    grad_score = weight * (grad_weight - delta[None, :])
                    result_k += tl.dot(grad_score.to(q.dtype), q, input_precision=PRECISION)
    result_k = (result_k * (scale * LN2)).to(grad_key.dtype.element_ty)
    tl.store(
        grad_key + _offsets(y, x, d, grad_key_y, grad_key_x, grad_key_d),
        result_k,
        mask=mask,
    )
    result_v = result_v.to(grad_value.dtype.element_ty)
    tl.store(
        grad_value + _offsets(y, x, d, grad_value_y, grad_value_x, grad_value_d),
        result_v,
        mask=mask,
    )


# -- launches --------------------------------------------------------------------------------------

_ROWS = _COLUMNS = 8  # of a tile


class _Sizes(NamedTuple):
    """What the kernels are compiled for."""

    head_dim: int
    channels: int
    kernel_size: int
    stride: int
    dilation: int
    residues: int  # of queries: those i for which i * stride is the same modulo dilation
    step: int  # keys of one residue between two queries of one residue
    precision: str

    @classmethod
    def of(cls, key: Tensor, kernel_size: int, stride: int, dilation: int) -> '_Sizes':
        common = math.gcd(stride, dilation)
        channels = max(16, triton.next_power_of_2(key.shape[2]))
        precision = 'tf32' if torch.backends.cuda.matmul.allow_tf32 else 'ieee'
        return cls(
            key.shape[2], channels, kernel_size, stride, dilation, dilation // common, stride // common, precision
        )


def _scale(key: Tensor) -> float:
    """Of the scores, whose exponential is taken to the base of 2."""
    return key.shape[2] ** -0.5 * _LOG2E


def _stages(sizes: _Sizes, key: Tensor) -> int:
    """Loop passes whose loads are on their way at once: a wide head leaves room for one in a small GPU's memory."""
    return 1 if sizes.channels * key.element_size() > 256 else 3


def _columns(queries: int) -> int:
    return max(16, triton.next_power_of_2(queries))


def _grid(size: tuple[int, int], residues: int, key: Tensor) -> tuple[tuple[int, int, int], int]:
    """Programs, and tiles in a row, for tiles of the pixels of one residue."""
    rows, columns = (-(-side // (residues * tile)) for side, tile in zip(size, (_ROWS, _COLUMNS), strict=True))
    return (rows * columns * residues**2, key.shape[1], key.shape[0]), columns


@torch.library.custom_op('mmacmix::neighborhood_attention', mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Output, and the base-2 log-sum-exp of the scores."""
    output, log_sum_exp = _empty(query, key, value, kernel_size, stride, dilation)
    sizes = _Sizes.of(key, kernel_size, stride, dilation)
    grid, tiles_x = _grid(query.shape[3:], sizes.residues, key)
    with _on_device(key):
        _forward_kernel[grid](
            query, key, value, output, log_sum_exp,
            *query.stride(), *key.stride(), *value.stride(), *output.stride(),
            key.shape[1], *key.shape[3:], *query.shape[3:], tiles_x, _scale(key),
            sizes.head_dim, sizes.channels, kernel_size, stride, dilation, sizes.residues, sizes.step,
            _ROWS, _COLUMNS, _columns((_COLUMNS - 1) * sizes.step + kernel_size), sizes.precision,
            num_stages=_stages(sizes, key),
        )  # fmt: skip
    return output, log_sum_exp


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
    log_sum_exp: Tensor,
    kernel_size: int,
    stride: int,
    dilation: int,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = grad_query, grad_key, grad_value = [torch.empty_like(each) for each in (query, key, value)]
    inner = (output.float() * grad.float()).sum(2)
    sizes = _Sizes.of(key, kernel_size, stride, dilation)
    ln2 = 1 / _LOG2E
    grid, tiles_x = _grid(query.shape[3:], sizes.residues, key)
    with _on_device(key):
        _grad_query_kernel[grid](
            query, key, value, grad, grad_query, log_sum_exp, inner,
            *query.stride(), *key.stride(), *value.stride(), *grad.stride(), *grad_query.stride(),
            key.shape[1], *key.shape[3:], *query.shape[3:], tiles_x, _scale(key),
            sizes.head_dim, sizes.channels, kernel_size, stride, dilation, sizes.residues, sizes.step,
            _ROWS, _COLUMNS, _columns((_COLUMNS - 1) * sizes.step + kernel_size), sizes.precision, ln2,
            num_stages=_stages(sizes, key),
        )  # fmt: skip
        grid, tiles_x = _grid(key.shape[3:], dilation, key)
        # Images further out than the windows reach are of no account.
        images = [-(-(kernel_size // 2 * dilation + side) // max(1, 2 * (side - 1))) for side in key.shape[3:]]
        _grad_key_value_kernel[grid](
            query, key, value, grad, grad_key, grad_value, log_sum_exp, inner,
            *query.stride(), *key.stride(), *value.stride(), *grad.stride(),
            *grad_key.stride(), *grad_value.stride(),
            key.shape[1], *key.shape[3:], *query.shape[3:], tiles_x, *images, _scale(key),
            sizes.head_dim, sizes.channels, kernel_size, stride, dilation, sizes.residues,
            pow(sizes.step, -1, sizes.residues) if sizes.residues > 1 else 0, _ROWS, _COLUMNS,
            _columns((_COLUMNS + kernel_size - 2) // sizes.step + 1), sizes.precision, ln2,
            num_stages=_stages(sizes, key),
        )  # fmt: skip
    return tuple(grads)


@_attend_backward.register_fake
def _empty_grads(grad, query, key, value, output, log_sum_exp, kernel_size, stride, dilation):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save(ctx, inputs, output):
    query, key, value, *ctx.window = inputs
    ctx.save_for_backward(query, key, value, *output)


def _differentiate(ctx, grad, _):
    return *_attend_backward(grad, *ctx.saved_tensors, *ctx.window), None, None, None


_attend.register_autograd(_differentiate, setup_context=_save)


def _on_device(tensor: Tensor):
    """Kernels start on the current GPU, which need not be the tensor's."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)
