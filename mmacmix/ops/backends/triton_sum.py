"""The sum of ACmix's paths and of their biases in one Triton kernel; CUDA."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..constants import constant
from ..shift_conv import taps_inside

_PIXELS, _CHANNELS = 32, 64  # of a program


def sum_paths(
    attention: Tensor,
    convolution: Tensor,
    taps: Tensor,
    bias: Tensor,
    rate: Tensor | None,
    size: tuple[int, int],
    stride: int,
    dilation: int,
) -> Tensor:
    """See ``mmacmix.ops.sum_paths``; ``size`` are height and width of the operator's input."""
    return _sum(attention, convolution, taps, bias, rate, *size, stride, dilation)


@triton.jit(do_not_specialize=['pixels', 'height', 'width', 'out_height', 'out_width'])
def _sum_kernel(
    attention, convolution, out, taps, bias, rate,
    attention_b, attention_c, attention_y, attention_x,
    convolution_b, convolution_c, convolution_y, convolution_x,
    out_b, out_c, out_y, out_x,
    pixels, height, width, out_height, out_width,
    HAS_RATE: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr,
    PIXELS_OF_TILE: tl.constexpr, CHANNELS_OF_TILE: tl.constexpr,
):  # fmt: skip
    # 64 bits, because a map may have more than 2^31 elements.
    pixel = tl.program_id(0).to(tl.int64) * PIXELS_OF_TILE + tl.arange(0, PIXELS_OF_TILE)
    c = tl.program_id(1).to(tl.int64) * CHANNELS_OF_TILE + tl.arange(0, CHANNELS_OF_TILE)
    x, y, b = pixel % out_width, pixel // out_width % out_height, pixel // out_width // out_height
    in_channels = c < CHANNELS
    mask = (pixel < pixels)[:, None] & in_channels[None, :]
    total = tl.load(bias + c, mask=in_channels, other=0.0).to(tl.float32)[None, :]
    if HAS_RATE:
        total *= tl.load(rate).to(tl.float32)
    for tap in range(KERNEL * KERNEL):
        tap_y = y * STRIDE + (tap // KERNEL - KERNEL // 2) * DILATION
        tap_x = x * STRIDE + (tap % KERNEL - KERNEL // 2) * DILATION
        inside = (tap_y >= 0) & (tap_y < height) & (tap_x >= 0) & (tap_x < width)
        of_tap = tl.load(taps + c * (KERNEL * KERNEL) + tap, mask=in_channels, other=0.0).to(tl.float32)
        total += tl.where(inside[:, None], of_tap[None, :], 0.0)
    offsets = (b * attention_b + y * attention_y + x * attention_x)[:, None] + (c * attention_c)[None, :]
    total += tl.load(attention + offsets, mask=mask, other=0.0).to(tl.float32)
    offsets = (b * convolution_b + y * convolution_y + x * convolution_x)[:, None] + (c * convolution_c)[None, :]
    total += tl.load(convolution + offsets, mask=mask, other=0.0).to(tl.float32)
    offsets = (b * out_b + y * out_y + x * out_x)[:, None] + (c * out_c)[None, :]
    tl.store(out + offsets, total.to(out.dtype.element_ty), mask=mask)


@torch.library.custom_op('mmacmix::sum_paths', mutates_args=())
def _sum(
    attention: Tensor,
    convolution: Tensor,
    taps: Tensor,
    bias: Tensor,
    rate: Tensor | None,
    height: int,
    width: int,
    stride: int,
    dilation: int,
) -> Tensor:
    out = torch.empty_like(convolution)
    batch, channels, out_height, out_width = out.shape
    pixels = batch * out_height * out_width
    tile = min(_CHANNELS, triton.next_power_of_2(channels))
    # Kernels start on the current GPU, which may differ from the tensors'.
    with torch.cuda.device(out.device if out.is_cuda else -1):
        _sum_kernel[triton.cdiv(pixels, _PIXELS), triton.cdiv(channels, tile)](
            attention, convolution, out, taps.contiguous(), bias.contiguous(), rate,
            *attention.stride(), *convolution.stride(), *out.stride(),
            pixels, height, width, out_height, out_width,
            rate is not None, channels, taps.shape[2], stride, dilation, _PIXELS, tile,
        )  # fmt: skip
    return out


@_sum.register_fake
def _empty(attention, convolution, taps, bias, rate, height, width, stride, dilation):
    return torch.empty_like(convolution)


def _save(ctx, inputs, output):
    _, _, taps, bias, rate, *ctx.sizes = inputs
    ctx.save_for_backward(taps, bias, rate)


def _differentiate(ctx, grad):
    taps, bias, rate = ctx.saved_tensors
    height, width, stride, dilation = ctx.sizes
    channels, side, _ = taps.shape
    inside = _inside(grad, height, width, side, stride, dilation, grad.dtype)
    by_image = torch.matmul(grad.flatten(2), inside)  # (B, C, k^2)
    grad_taps = (by_image[0] if len(by_image) == 1 else by_image.sum(0)).view(channels, side, side)
    grad_bias, grad_rate = grad_taps[:, side // 2, side // 2].to(bias.dtype), None  # this tap is inside everywhere
    if rate is not None:
        grad_bias, grad_rate = grad_bias * rate, torch.dot(grad_bias, bias).view(1)
    return grad, grad, grad_taps.to(taps.dtype), grad_bias, grad_rate, None, None, None, None


@constant
def _inside(
    device: torch.device, height: int, width: int, side: int, stride: int, dilation: int, dtype: torch.dtype
) -> Tensor:
    """``(outputs, k^2)``: 1 where an output's tap lies inside the map, else 0."""
    like = torch.empty(0, device=device)
    rows, columns = (taps_inside(like, each, side, stride, dilation, dtype) for each in (height, width))
    return (rows[:, None, :, None] * columns[:, None]).flatten(2).flatten(0, 1)


_sum.register_autograd(_differentiate, setup_context=_save)
