"""The attention path of ACmix and the sum of its paths (arXiv 2111.14556, section 4), from its input and weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends.choice import runs_kernels
from .coordinates import coordinate_map
from .functional import neighborhood_attention, resolve_backend
from .shift_conv import border_bias


def attention_path(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    position_bias: Tensor,
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
        weight: ``(3 * out_channels, in_channels)``, the projections to query, key and value.
        bias: ``(3 * out_channels,)``.
        position: ``(head_dim, 2)``, the projection of the coordinates.
        position_bias: ``(head_dim,)``; its gradient is zero.
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
    channels = len(bias) // 3
    name = resolve_backend(backend, x, _dtype_of_projections(x), channels // num_heads, window)
    if name == 'triton' and len(x):
        from .backends import triton_kernels

        # Makes no maps for the biases and the position. The softmax cancels the key's bias, and the value's is the same
        # for all pixels, because the weights of a window sum to 1.
        query, key, value = _projected(x, weight, None, num_heads, stride)
        out = triton_kernels.neighborhood_attention(
            query, key, value, *window,
            query_bias=bias[:channels].view(num_heads, -1),
            position=_with_zero_gradient(position, position_bias),
            rate=bias.new_ones(1) if rate is None else rate,
        )  # fmt: skip
        return out.flatten(1, 2), False
    if rate is not None:  # attention is linear in the values, and scaling their projection is cheap
        weight, bias = (torch.cat((each[: 2 * channels], rate * each[2 * channels :])) for each in (weight, bias))
    query, key, value = _projected(x, weight, bias, num_heads, stride)
    key = key + F.conv2d(coordinate_map(x), -position[..., None, None], -position_bias)[:, None]
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
    """
    given = attention, convolution, taps, bias, rate
    if all(each is not None for each in given) and len(x) and runs_kernels(x.device):
        from .backends import triton_sum

        return triton_sum.sum_paths(*given, tuple(x.shape[2:]), stride, dilation)
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
    autocast = x.device.type == 'cuda' and torch.is_autocast_enabled()
    return torch.get_autocast_gpu_dtype() if autocast else x.dtype


def _projected(x: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int, stride: int) -> list[Tensor]:
    """Query, key and value, ``(B, heads, head_dim, H, W)`` each."""
    weight, channels = weight[..., None, None], len(weight) // 3
    if stride == 1:
        maps = F.conv2d(x, weight, bias).split(channels, 1)
    else:  # fewer queries than keys
        of_query, of_others = (None, None) if bias is None else bias.split((channels, 2 * channels))
        query = F.conv2d(x, weight[:channels], of_query, stride)
        maps = query, *F.conv2d(x, weight[channels:], of_others).split(channels, 1)
    return [each.unflatten(1, (num_heads, -1)) for each in maps]


class _ZeroGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, unused):
        ctx.save_for_backward(unused)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad):
        return grad, torch.zeros_like(*ctx.saved_tensors)


def _with_zero_gradient(tensor: Tensor, unused: Tensor) -> Tensor:
    """``tensor``, through which ``unused`` gets a zero gradient; distributed training does not allow its absence."""
    return _ZeroGradient.apply(tensor, unused)
