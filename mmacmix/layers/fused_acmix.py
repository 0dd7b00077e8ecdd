"""ACmix for inference."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import (
    contiguous,
    coordinate_map,
    dense_shift_conv,
    feature_projection,
    merged_kernels,
    neighborhood_attention,
)
from .merging import conv_with, scale_and_shift
from .two_paths import TwoPaths


class FusedACmix(nn.Module):
    """An ACmix layer and the batch normalisation after it, with linear operations merged.

    Args:
        layer: The ``mmacmix.layers.ACmix``.
        norm: The normalisation, or None. Default: None.
    """

    @torch.no_grad()
    def __init__(self, layer: TwoPaths, norm: _BatchNorm | None = None) -> None:
        super().__init__()
        self.num_heads, self.stride, self.dilation = layer.num_heads, layer.stride[0], layer.dilation[0]
        self.attention_kernel_size, self.backend = layer.attention_kernel_size, layer.backend
        self.out_channels = layer.out_channels
        scale, shift = scale_and_shift(norm, layer.query.weight)
        if layer.bias is not None:
            shift = shift + scale * layer.bias
        weight, bias = layer.joined_projections()
        self.projections = self.convolution = self.shift = None
        if layer.has_convolution:
            path = layer.shift_conv
            features = feature_projection(weight, bias, path.mixing, path.mixing_bias)
            # Channels have different scales, so heads can no longer share kernels.
            factor = (scale * layer.conv_rate).view(-1, 1, 1, 1)
            kernels = path.weight.repeat_interleave(path.heads_per_kernel, 0) * factor
            if path.dense_is_faster(layer.in_channels, self.num_heads):
                self.convolution = _DenseShiftConv(*features, kernels, shift, self.stride, self.dilation)
            else:
                groups = len(kernels) // self.num_heads
                self.convolution = nn.Sequential(
                    conv_with(features[0][..., None, None], features[1]),
                    conv_with(kernels, shift, self.stride, layer.padding[0], self.dilation, groups),
                )
        else:
            self.shift = nn.Parameter(shift.view(-1, 1, 1))
        if layer.has_attention:
            self.position = layer.position
            # Attention is linear in the values, so scaling them scales the output.
            factors = torch.cat((torch.ones_like(bias[: -len(scale)]), scale * layer.attention_rate))
            weight, bias = (weight * factors[:, None])[..., None, None], bias * factors
            if self.stride > 1:  # fewer queries than keys
                query, key_value = slice(self.out_channels), slice(self.out_channels, None)
                projections = [
                    conv_with(weight[query], bias[query], self.stride),
                    conv_with(weight[key_value], bias[key_value]),
                ]
            else:
                projections = [conv_with(weight, bias)]
            self.projections = nn.ModuleList(projections)

    def forward(self, x: Tensor) -> Tensor:
        """As ``mmacmix.layers.ACmix``."""
        memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        x = x.contiguous(memory_format=torch.channels_last)
        out = self.shift if self.convolution is None else self.convolution(x)
        if self.projections is not None:
            out = out + self._attention(x)
        return contiguous(out, memory_format)

    def _attention(self, x: Tensor) -> Tensor:
        query, key, value = (
            each.unflatten(1, (self.num_heads, -1))
            for projection in self.projections
            for each in projection(x).split(self.out_channels, 1)
        )
        key = key - self.position(coordinate_map(x))[:, None]
        return neighborhood_attention(
            query, key, value, self.attention_kernel_size, self.stride, self.dilation, self.backend
        ).flatten(1, 2)


class _DenseShiftConv(nn.Module):
    """The projection to features and the shifts as one dense convolution."""

    def __init__(
        self, weight: Tensor, bias: Tensor, kernels: Tensor, shift: Tensor, stride: int, dilation: int
    ) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(merged_kernels(kernels, weight)), nn.Parameter(shift)
        self.taps = nn.Parameter(merged_kernels(kernels, bias[:, None])[:, 0])
        self.stride, self.dilation = stride, dilation

    def forward(self, x: Tensor) -> Tensor:
        return dense_shift_conv(x, self.weight, self.taps, self.bias, self.stride, self.dilation)
