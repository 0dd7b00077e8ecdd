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
from .constants import constant
from .exporting import is_exporting
from .sizes import ceil_div


def shift_kernels(channels: int, kernel_size: int) -> Tensor:
    """Kernels that shift and sum: ``(channels, k^2, k, k)``, kernel t is 1 at its t-th tap and 0 elsewhere."""
    taps = kernel_size**2
    return torch.eye(taps).view(1, taps, kernel_size, kernel_size).repeat(channels, 1, 1, 1)


def mix(projections: Tensor, mixing: Tensor, mixing_bias: Tensor | None = None) -> Tensor:
    """The fully connected layer: k^2 features for every index of ``head_dim``.

    Args:
        projections: ``(B, head_dim, 3 * heads, H, W)``, query, key and value.
        mixing: ``(k^2, 3 * heads)``.
        mixing_bias: ``(k^2,)`` or None. Default: None.

    Returns:
        ``(B, head_dim * k^2, H, W)``.
    """
    features = torch.matmul(mixing, projections.flatten(3))
    if mixing_bias is not None:
        features = features + mixing_bias[:, None]
    return features.flatten(1, 2).unflatten(2, projections.shape[3:])


def feature_projection(
    weight: Tensor, bias: Tensor | None, mixing: Tensor, mixing_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Merge the projections and the fully connected layer into one 1x1 convolution from the input to the features.

    Exact, because both are linear and zero padding comes after them. Avoids a permuted copy of query, key and value.

    Args:
        weight: ``(inputs, head_dim, in_channels)``, the projections to query, key and value of all heads.
        bias: ``(inputs * head_dim,)`` or None.
        mixing: ``(k^2, inputs)``, the fully connected layer.
        mixing_bias: ``(k^2,)`` or None. Default: None.

    Returns:
        Weight ``(head_dim * k^2, in_channels)`` and bias ``(head_dim * k^2,)`` of the merged projection.
    """
    head_dim = weight.shape[1]
    merged = torch.einsum('ti,idc->dtc', mixing, weight).flatten(0, 1)
    merged_bias = weight.new_zeros(head_dim, mixing.shape[0])
    if bias is not None:
        merged_bias = merged_bias + torch.einsum('ti,id->dt', mixing, bias.unflatten(0, (-1, head_dim)))
    if mixing_bias is not None:
        merged_bias = merged_bias + mixing_bias
    return merged, merged_bias.flatten()


def dense_kernels(
    kernels: Tensor, mixing: Tensor, weight: Tensor, bias: Tensor | None = None, mixing_bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Merge the projections, the fully connected layer and the group convolution into one dense convolution.

    Args:
        kernels: ``(head_dim * heads, k^2, k, k)``, the group convolution.
        mixing: ``(k^2, inputs)``, the fully connected layer.
        weight: ``(inputs, head_dim, in_channels)``, the projections to query, key and value of all heads.
        bias: ``(inputs * head_dim,)`` or None. Default: None.
        mixing_bias: ``(k^2,)`` or None. Default: None.

    Returns:
        Kernels ``(head_dim * heads, in_channels, k, k)`` in channels_last memory, and the bias that each of their taps
        adds, ``(head_dim * heads, k, k)``, or None if there is no bias.
    """
    channels, _, side, _ = kernels.shape
    head_dim = weight.shape[1]
    by_tap = kernels.flatten(2).transpose(-1, -2)  # (channels, k^2 taps, k^2 features)
    of_inputs = torch.bmm(by_tap, mixing.expand(channels, -1, -1)).view(head_dim, -1, mixing.shape[1])
    merged = torch.bmm(of_inputs, weight.transpose(0, 1))  # (head_dim, heads * k^2, in)
    merged = merged.view(channels, side, side, -1).permute(0, 3, 1, 2)
    taps = None
    if bias is not None:
        taps = torch.bmm(of_inputs, bias.view(-1, head_dim).t()[..., None]).view(channels, side, side)
    if mixing_bias is not None:
        of_mixing = torch.matmul(by_tap, mixing_bias).view(channels, side, side)
        taps = of_mixing if taps is None else taps + of_mixing
    return merged, taps


def grouped_kernels(kernels: Tensor, mixing: Tensor, mixing_bias: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Merge the fully connected layer and the group convolution into one group convolution of the projections.

    Args:
        kernels: ``(head_dim * heads, k^2, k, k)``, the group convolution.
        mixing: ``(k^2, inputs)``, the fully connected layer.
        mixing_bias: ``(k^2,)`` or None. Default: None.

    Returns:
        Kernels ``(head_dim * heads, inputs, k, k)``, and the bias that each of their taps adds,
        ``(head_dim * heads, k, k)``, or None if there is no bias.
    """
    by_tap = kernels.flatten(2).transpose(-1, -2)  # (channels, k^2 taps, k^2 features)
    merged = torch.matmul(by_tap, mixing).transpose(-1, -2).unflatten(2, kernels.shape[2:])
    taps = None if mixing_bias is None else torch.matmul(by_tap, mixing_bias).unflatten(1, kernels.shape[2:])
    return merged, taps


def shift_and_sum(features: Tensor, kernels: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Shift the features and sum them: a group convolution with zero padding.

    Args:
        features: ``(B, head_dim * n, H, W)``, with the n features of each index of ``head_dim`` adjacent; n is k^2
            after the fully connected layer.
        kernels: ``(head_dim * heads, n, k, k)``.
        stride: Step between outputs in pixels. Default: 1.
        dilation: Step between taps in pixels. Default: 1.

    Returns:
        ``(B, head_dim * heads, ceil(H / stride), ceil(W / stride))``; channel ``d * heads + h``.
    """
    adjacent, kernel_size = kernels.shape[1:3]
    groups, padding = features.shape[1] // adjacent, kernel_size // 2 * dilation
    return F.conv2d(features, kernels, None, stride, (padding, padding), dilation, groups)  # one: not traced before 2.5


def border_bias(taps: Tensor, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """The bias that a projection adds to a convolution after it.

    Zero padding comes after the projection, so only taps inside the map add the projection's bias.

    Args:
        taps: ``(out_channels, k, k)``, what each tap adds.
        x: ``(B, in_channels, H, W)``, the projection's input.
        stride: Step between outputs in pixels. Default: 1.
        dilation: Step between taps in pixels. Default: 1.

    Returns:
        ``(1, out_channels, ceil(H / stride), ceil(W / stride))``.
    """
    if is_exporting():  # for runtimes, one operation in the memory layout of convolutions
        padding = taps.shape[2] // 2 * dilation
        ones = x.new_ones(1, 1, *x.shape[2:])
        return F.conv2d(ones, taps[:, None], None, stride, (padding, padding), dilation)
    rows, columns = (taps_inside(taps, side, taps.shape[2], stride, dilation, taps.dtype) for side in x.shape[2:])
    of_columns = torch.matmul(columns, taps.permute(1, 2, 0))  # (k, width, out_channels)
    out = torch.matmul(rows, of_columns.flatten(1)).view(rows.shape[0], columns.shape[0], -1)
    return out.permute(2, 0, 1)[None]


@constant
def taps_inside(
    device: torch.device, side: int, kernel_size: int, stride: int, dilation: int, dtype: torch.dtype
) -> Tensor:
    """``(outputs, k)``: 1 where an output's tap lies inside the map, else 0, along an axis of length ``side``."""
    positions = window_positions(ceil_div(side, stride), kernel_size, stride, dilation, device)
    return ((positions >= 0) & (positions < side)).to(dtype)
