"""The convolution path of ACmix: "shift and sum".

A ``k x k`` convolution is a sum of k^2 1x1 convolutions, each followed by a shift (arXiv 2111.14556, section 3.1,
equations 3 to 5). ACmix reuses the projections of the attention path instead of k^2 of its own: for every index d of
``head_dim`` a fully connected layer, shared by all d, mixes the ``3 * heads`` values of query, key and value into k^2
features, and a group convolution whose kernels start as the k^2 shifts moves and sums them (section 4.2, figure 3).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def shift_kernels(channels: int, kernel_size: int) -> Tensor:
    """The kernels that shift and sum: ``(channels, k^2, k, k)``, kernel t is 1 at its t-th tap and 0 elsewhere."""
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
    """Merge the fully connected layer into the projections: from the input to the features in one 1x1 convolution.

    Exact: both are linear, and the zero padding comes behind them. It spares a permuted copy of query, key and value.

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
    shift = weight.new_zeros(head_dim, mixing.shape[0])
    if bias is not None:
        shift = shift + torch.einsum('ti,id->dt', mixing, bias.unflatten(0, (-1, head_dim)))
    if mixing_bias is not None:
        shift = shift + mixing_bias
    return merged, shift.flatten()


def merged_kernels(kernels: Tensor, features: Tensor) -> Tensor:
    """The plain convolution that a projection to the features and the group convolution behind it are together.

    Args:
        kernels: ``(head_dim * heads, k^2, k, k)``.
        features: ``(head_dim * k^2, in_channels)``, from the input to the features.

    Returns:
        ``(head_dim * heads, in_channels, k, k)``.
    """
    features = features.unflatten(0, (-1, kernels.shape[1]))
    return torch.einsum('dhtyx,dtc->dhcyx', kernels.unflatten(0, (len(features), -1)), features).flatten(0, 1)


def shift_and_sum(features: Tensor, kernels: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Shift the features and sum them, a group convolution with zero padding.

    Args:
        features: ``(B, head_dim * k^2, H, W)``, the k^2 features of a ``head_dim`` index side by side.
        kernels: ``(head_dim * heads, k^2, k, k)``.
        stride: Step between outputs in pixels. Default: 1.
        dilation: Step between taps in pixels. Default: 1.

    Returns:
        ``(B, head_dim * heads, ceil(H / stride), ceil(W / stride))``; channel ``d * heads + h``.
    """
    taps, kernel_size = kernels.shape[1:3]
    return F.conv2d(
        features,
        kernels,
        stride=stride,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        groups=features.shape[1] // taps,
    )


def dense_shift_conv(
    x: Tensor, kernels: Tensor, taps: Tensor, bias: Tensor | None = None, stride: int = 1, dilation: int = 1
) -> Tensor:
    """The projection to the features and ``shift_and_sum`` after it as one plain convolution.

    The zero padding comes behind the projection, so the projection's bias is felt only by the taps that lie on the map.

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
    out = F.conv2d(x, kernels, bias, stride, kernels.shape[2] // 2 * dilation, dilation)
    # For every row, and every column, of outputs: which taps lie on the map.
    on_rows, on_columns = (_on_map(side, taps, stride, dilation) for side in x.shape[2:])
    of_columns = torch.einsum('xl,okl->kxo', on_columns, taps)
    out += torch.einsum('yk,kxo->yxo', on_rows, of_columns).permute(2, 0, 1).to(out.dtype)
    return out


def _on_map(side: int, taps: Tensor, stride: int, dilation: int) -> Tensor:
    """``(outputs, k)``: 1 where a tap of an output's window lies on the map, else 0; an axis is ``side`` long."""
    kernel_size = taps.shape[2]
    offsets = (torch.arange(kernel_size, device=taps.device) - kernel_size // 2) * dilation
    places = torch.arange(0, side, stride, device=taps.device)[:, None] + offsets
    return ((places >= 0) & (places < side)).to(taps.dtype)
