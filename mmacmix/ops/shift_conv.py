"""The convolution path of ACmix: "shift and sum".

A ``k x k`` convolution is a sum of k^2 1x1 convolutions, each followed by a shift (arXiv 2111.14556, section 3.1,
equations 3 to 5). ACmix computes these from the projections of the attention path: for every index of ``head_dim``,
a fully connected layer mixes the ``3 * heads`` values of query, key and value into k^2 features, and a group
convolution, whose kernels are initialised as the k^2 shifts, shifts and sums them (section 4.2, figure 3).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .borders import window_positions
from .sizes import ceil_div


def shift_kernels(channels: int, kernel_size: int) -> Tensor:
    """Kernels that shift and sum: ``(channels, k^2, k, k)``, kernel t is 1 at its t-th tap and 0 elsewhere."""
    taps = kernel_size**2
    return torch.eye(taps).view(1, taps, kernel_size, kernel_size).repeat(channels, 1, 1, 1)


def mix(projections: Tensor, mixing: Tensor, mixing_bias: Tensor | None = None) -> Tensor:
    """The fully connected layer: k^2 features for every index of ``head_dim``.

    Args:
        projections: ``(B, 3 * heads * head_dim, H, W)``, query, key and value, heads outermost within each.
        mixing: ``(k^2, 3 * heads)``.
        mixing_bias: ``(k^2,)`` or None. Default: None.

    Returns:
        ``(B, head_dim * k^2, H, W)``.
    """
    features = torch.einsum('ti,bidhw->bdthw', mixing, projections.unflatten(1, (mixing.shape[1], -1)))
    if mixing_bias is not None:
        features = features + mixing_bias[:, None, None]
    return features.flatten(1, 2)


def feature_projection(
    weight: Tensor, bias: Tensor | None, mixing: Tensor, mixing_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Merge the projections and the fully connected layer into one 1x1 convolution from the input to the features.

    Exact, because both are linear and zero padding comes after them. Avoids a permuted copy of query, key and value.

    Args:
        weight: ``(3 * heads * head_dim, in_channels)``, the projections to query, key and value, heads outermost.
        bias: ``(3 * heads * head_dim,)`` or None.
        mixing: ``(k^2, 3 * heads)``, the fully connected layer.
        mixing_bias: ``(k^2,)`` or None. Default: None.

    Returns:
        Weight ``(head_dim * k^2, in_channels)`` and bias ``(head_dim * k^2,)`` of the merged projection.
    """
    head_dim = weight.shape[0] // mixing.shape[1]
    merged = torch.einsum('ti,idc->dtc', mixing, weight.unflatten(0, (-1, head_dim))).flatten(0, 1)
    merged_bias = weight.new_zeros(head_dim, mixing.shape[0])
    if bias is not None:
        merged_bias = merged_bias + torch.einsum('ti,id->dt', mixing, bias.unflatten(0, (-1, head_dim)))
    if mixing_bias is not None:
        merged_bias = merged_bias + mixing_bias
    return merged, merged_bias.flatten()


def merged_kernels(kernels: Tensor, features: Tensor) -> Tensor:
    """Merge a projection to the features and the group convolution into one dense kernel.

    Args:
        kernels: ``(head_dim * heads, k^2, k, k)``, the group convolution.
        features: ``(head_dim * k^2, in_channels)``, the projection.

    Returns:
        ``(head_dim * heads, in_channels, k, k)``.
    """
    features = features.unflatten(0, (-1, kernels.shape[1]))
    merged = torch.einsum('dhtyx,dtc->dhcyx', kernels.unflatten(0, (len(features), -1)), features).flatten(0, 1)
    return merged.contiguous()  # before torch 2.2, the backward pass of float64 on CPUs requires it


def shift_and_sum(features: Tensor, kernels: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Shift the features and sum them: a group convolution with zero padding.

    Args:
        features: ``(B, head_dim * k^2, H, W)``, with the k^2 features of each index of ``head_dim`` adjacent.
        kernels: ``(head_dim * heads, k^2, k, k)``.
        stride: Step between outputs in pixels. Default: 1.
        dilation: Step between taps in pixels. Default: 1.

    Returns:
        ``(B, head_dim * heads, ceil(H / stride), ceil(W / stride))``; channel ``d * heads + h``.
    """
    taps, kernel_size = kernels.shape[1:3]
    groups, padding = features.shape[1] // taps, kernel_size // 2 * dilation
    return F.conv2d(features, kernels, None, stride, (padding, padding), dilation, groups)  # one: not traced before 2.5


def dense_shift_conv(
    x: Tensor, kernels: Tensor, taps: Tensor, bias: Tensor | None = None, stride: int = 1, dilation: int = 1
) -> Tensor:
    """A projection to the features followed by ``shift_and_sum``, as one dense convolution.

    Zero padding comes after the projection, so only taps inside the map add the projection's bias.

    Args:
        x: ``(B, in_channels, H, W)``.
        kernels: ``(out_channels, in_channels, k, k)``, ``merged_kernels`` of the projection's weight.
        taps: ``(out_channels, k, k)``, ``merged_kernels`` of the projection's bias.
        bias: ``(out_channels,)``, added everywhere, or None. Default: None.
        stride: Step between outputs in pixels. Default: 1.
        dilation: Step between taps in pixels. Default: 1.

    Returns:
        ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.
    """
    padding = kernels.shape[2] // 2 * dilation
    out = F.conv2d(x, kernels, bias, stride, (padding, padding), dilation)
    rows, columns = (_taps_inside(side, taps, stride, dilation) for side in x.shape[2:])
    bias_of_columns = torch.einsum('xl,okl->kxo', columns, taps)
    out += torch.einsum('yk,kxo->yxo', rows, bias_of_columns).permute(2, 0, 1).to(out.dtype)
    return out


def _taps_inside(side: int, taps: Tensor, stride: int, dilation: int) -> Tensor:
    """``(outputs, k)``: 1 where an output's tap lies inside the map, else 0, along an axis of length ``side``."""
    positions = window_positions(ceil_div(side, stride), taps.shape[2], stride, dilation, taps.device)
    return ((positions >= 0) & (positions < side)).to(taps.dtype)
