"""ACmix for inference."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import attention_path, contiguous, dense_kernels, feature_projection, sum_paths
from .merging import conv_with, scale_and_shift
from .scripting import NotScriptable
from .two_paths import TwoPaths


class FusedACmix(NotScriptable, nn.Module):
    """An ACmix layer and the batch normalisation after it, with linear operations merged.

    Args:
        layer: The ``mmacmix.layers.ACmix``.
        norm: The normalisation, or None. Default: None.
        dense: Merge the convolution path into one convolution; None decides by the weights' device. Default: None.
    """

    @torch.no_grad()
    def __init__(self, layer: TwoPaths, norm: _BatchNorm | None = None, dense: bool | None = None) -> None:
        super().__init__()
        self.num_heads, self.stride, self.dilation = layer.num_heads, layer.stride[0], layer.dilation[0]
        self.attention_kernel_size, self.backend = layer.attention_kernel_size, layer.backend
        self.out_channels = layer.out_channels
        scale, shift = scale_and_shift(norm, layer.query.weight)
        if layer.bias is not None:
            shift = shift + scale * layer.bias
        weight, bias = layer.joined_projections()
        self.convolution = self.kernels = self.taps = self.weight = None
        if layer.has_convolution:
            path = layer.shift_conv
            # Channels have different scales, so heads can no longer share kernels.
            factor = (scale * layer.conv_rate).view(-1, 1, 1, 1)
            kernels = path.weight.repeat_interleave(path.heads_per_kernel, 0) * factor
            if dense is None:
                dense = path.dense_is_faster(layer.in_channels, self.num_heads, weight.device)
            if dense:
                merged = dense_kernels(kernels, path.mixing, weight, bias, path.mixing_bias)
                self.kernels, self.taps = map(nn.Parameter, merged)
            else:
                features = feature_projection(weight, bias, path.mixing, path.mixing_bias)
                groups = len(kernels) // self.num_heads
                self.convolution = nn.Sequential(
                    conv_with(features[0][..., None, None], features[1]),
                    conv_with(kernels, shift, self.stride, layer.padding[0], self.dilation, groups),
                )
        self.shift = nn.Parameter(shift) if self.convolution is None else None
        if layer.has_attention:
            self.position = layer.position
            # Attention is linear in the values, so scaling them scales the output.
            factors = torch.cat((torch.ones_like(bias[: -len(scale)]), scale * layer.attention_rate))
            self.weight = nn.Parameter(weight * factors.view(*weight.shape[:2], 1))
            self.bias = nn.Parameter(bias * factors)

    def forward(self, x: Tensor) -> Tensor:
        """As ``mmacmix.layers.ACmix``."""
        memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        x = x.contiguous(memory_format=torch.channels_last)
        attention = convolution = None
        is_complete = True
        bias = self.shift
        if self.weight is not None:
            attention, is_complete = attention_path(
                x, [self.weight], [self.bias], self.position.weight.flatten(1), self.position.bias, None,
                self.num_heads, self.attention_kernel_size, self.stride, self.dilation, self.backend,
            )  # fmt: skip
            if not is_complete:
                of_value = self.bias[2 * self.out_channels :]
                bias = of_value if bias is None else bias + of_value
        if self.kernels is not None:
            padding = self.kernels.shape[2] // 2 * self.dilation
            in_convolution = bias if is_complete else None  # a kernel adds the bias with the paths
            bias = None if is_complete else bias
            convolution = F.conv2d(x, self.kernels, in_convolution, self.stride, (padding, padding), self.dilation)
        elif self.convolution is not None:
            convolution = self.convolution(x)
        out = sum_paths(attention, convolution, self.taps, bias, None, x, self.stride, self.dilation, not is_complete)
        return contiguous(out, memory_format)
