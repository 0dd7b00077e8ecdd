"""The attention path of ACmix and the sum of its paths (arXiv 2111.14556, section 4), from its input and weights."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import recorded_tiles
from .coordinates import coordinate_map
from .exporting import is_exporting, is_recording
from .functional import neighborhood_attention, resolve_backend
from .shift_conv import border_bias
from .torch_versions import autocast_dtype_of_gpus


def attention_path(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    position: Tensor,
    cancelled: Tensor,
    rate: Tensor | None,
    num_heads: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    backend: str,
) -> tuple[Tensor, bool]:
    """Attention with relative positions among the projections of ``x``.

    The logits are ``query_i . (key_j + position_i - position_j)``. position_i is constant over a window, so the
    softmax cancels it, and with it the bias of the position.

    Args:
        x: ``(B, in_channels, H, W)``.
        weights: The projections to query, key and value: three of ``(out_channels, in_channels)``; or their
            concatenation, ``(3 * heads, head_dim, in_channels)``, faster on GPUs, while separate maps need less memory.
        biases: Three of ``(out_channels,)``, or one that is their concatenation.
        position: ``(head_dim, 2)``, the projection of the coordinates.
        cancelled: Biases that the softmax cancels, ``(n,)``: the position's, and the key's if nothing else uses it.
            Their gradient is zero.
        rate: Factor of the output, ``(1,)``, or None.
        num_heads: Heads; ``out_channels`` is a multiple.
        kernel_size: Side of the window.
        stride: Step between queries in pixels.
        dilation: Step between the keys of a window in pixels.
        backend: Of ``neighborhood_attention``.

    Returns:
        ``(B, out_channels, ceil(H / stride), ceil(W / stride))``, and whether it includes the bias of the value, times
        the rate; else ``sum_paths`` has to add that.
    """
    window = kernel_size, stride, dilation
    weights = [each.flatten(0, -2) for each in weights]
    channels = sum(map(len, biases)) // 3
    name = resolve_backend(backend, x, _dtype_of_projections(x), channels // num_heads, window)
    if name == 'triton' and x.shape[0]:
        from .backends import triton_kernels

        # Makes no maps for the biases and the position. The softmax cancels the key's bias, and the value's is the same
        # for all pixels, because the weights of a window sum to 1.
        maps = _by_head(_projected(x, weights, [None] * len(weights), stride), num_heads)
        of_query = biases[0] if len(biases) == 3 else biases[0][:channels]
        out = triton_kernels.attend_to_maps(
            maps, *window,
            query_bias=of_query.view(num_heads, -1),
            position=_with_zero_gradient(position, cancelled),
            rate=position.new_ones(1) if rate is None else rate,
        )  # fmt: skip
        return out.flatten(1, 2), False
    if len(biases) > len(weights):
        biases = [torch.cat(list(biases))]
    if rate is not None:  # attention is linear in the values, and scaling their projection is cheap
        weights, biases = (_scaled(each, rate, channels) for each in (weights, biases))
    maps = _projected(x, weights, biases, stride)
    if name == 'tiles' and is_recording():
        position = _with_zero_gradient(position, cancelled)
        return recorded_tiles.attend_to_maps(maps, num_heads, window, position), True
    maps = _by_head(maps, num_heads)
    query, key, value = (part for each in maps for part in each.unbind(1))
    # A product, because compilers distinguish small from large convolutions.
    negative = torch.matmul(_with_zero_gradient(position, cancelled), coordinate_map(x, -1)[0].flatten(1))
    key = key + negative.view(-1, *x.shape[2:])
    return neighborhood_attention(query, key, value, *window, name).flatten(1, 2), True


def sum_paths(
    attention: Tensor | None,
    convolution: Tensor | None,
    taps: Tensor | None,
    bias: Tensor | None,
    rate: Tensor | None,
    x: Tensor,
    stride: int,
    dilation: int,
    in_kernel: bool = False,
) -> Tensor:
    """The sum of both paths and their biases.

    Args:
        attention: ``(B, C, ceil(H / stride), ceil(W / stride))`` or None; not both paths are None.
        convolution: The same shape, or None.
        taps: What each tap of the convolution adds where it lies inside the map, ``(C, k, k)``, or None.
        bias: ``(C,)`` or None.
        rate: Factor of the bias, ``(1,)``, or None.
        x: The operator's input, ``(B, in_channels, H, W)``.
        stride: Stride of the convolution.
        dilation: Dilation of the convolution.
        in_kernel: Add in a Triton kernel, unless the convolution, the taps or the bias are None. Default: False.
    """
    if in_kernel and not any(each is None for each in (convolution, taps, bias)):
        from .backends import triton_sum

        return triton_sum.sum_paths(attention, convolution, taps, bias, rate, tuple(x.shape[2:]), stride, dilation)
    if attention is None or convolution is None:
        out = convolution if attention is None else attention
    else:
        out = attention + convolution
    if taps is not None:
        out = out + border_bias(taps, x, stride, dilation).to(out.dtype)
    if bias is not None:
        bias = bias if rate is None else rate * bias
        out = out + bias.view(-1, 1, 1).to(out.dtype)
    return out


def _dtype_of_projections(x: Tensor) -> torch.dtype:
    is_cast = x.device.type == 'cuda' and x.dtype != torch.float64 and torch.is_autocast_enabled()
    return autocast_dtype_of_gpus() if is_cast else x.dtype


def _scaled(tensors: Sequence[Tensor], rate: Tensor, channels: int) -> list[Tensor]:
    """The tensors, with the last ``channels`` rows of the last one times the rate."""
    *others, last = tensors
    if len(last) == channels:
        return [*others, rate * last]
    unscaled, scaled = last.split((len(last) - channels, channels))
    return [*others, torch.cat((unscaled, rate * scaled))]


def _projected(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], stride: int) -> list[Tensor]:
    """Query, key and value, ``(B, n * C, H, W)``: together, the query apart, or three tensors."""
    channels = sum(map(len, weights)) // 3
    if len(weights) == 1 and stride > 1:  # fewer queries than keys
        weights, biases = ((None, None) if each is None else _split(each, channels) for each in (weights[0], biases[0]))
    strides = stride, 1, 1
    return [
        F.conv2d(x, weight[..., None, None], *rest) for weight, *rest in zip(weights, biases, strides, strict=False)
    ]


def _split(tensor: Tensor, length: int) -> tuple[Tensor, Tensor]:
    if is_exporting():  # exporters compute slices of weights in advance, but not splits
        return tensor[:length], tensor[length:]
    return tensor.split((length, len(tensor) - length))


def _by_head(maps: list[Tensor], num_heads: int) -> list[Tensor]:
    """``(B, n * C, H, W)`` -> ``(B, n, heads, head_dim, H, W)``, n = 3 in all."""
    channels = sum(each.shape[1] for each in maps) // 3
    return [each.unflatten(1, (-1, num_heads, channels // num_heads)) for each in maps]


class _ZeroGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tensor, unused):
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad):
        return grad, torch.zeros_like(*ctx.saved_tensors)


def _with_zero_gradient(tensor: Tensor, unused: Tensor) -> Tensor:
    """``tensor``, through which ``unused`` gets a zero gradient; distributed training does not allow its absence."""
    return _ZeroGradient.apply(tensor, unused)
