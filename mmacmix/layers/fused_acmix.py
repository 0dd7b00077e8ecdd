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
from .normalization import scale_and_shift
from .two_paths import TwoPaths


class FusedACmix(nn.Module):
    """An ACmix layer and the batch normalisation after it, with everything linear merged.

    Args:
        layer: The ``mmacmix.layers.ACmix``.
        norm: The normalisation, or None. Default: None.
    """

    def __init__(self, layer: TwoPaths, norm: _BatchNorm | None = None) -> None:
        super().__init__()
        self.num_heads, self.stride, self.dilation = layer.num_heads, layer.stride[0], layer.dilation[0]
        self.attention_kernel_size, self.backend = layer.attention_kernel_size, layer.backend
        scale, shift = scale_and_shift(norm, layer.query.weight.detach())
        if layer.bias is not None:
            shift = shift + scale * layer.bias.detach()
        self.attention_projections = self.convolution = None
        if layer.has_attention:
            # The weights of a window sum to 1, so scaling the values scales the output.
            factor = scale * layer.attention_rate
            self.position = layer.position
            projections = [_weight_and_bias(each) for each in (layer.query, layer.key, layer.value)]
            projections[2] = tuple(each * factor.view(-1, *[1] * (each.dim() - 1)) for each in projections[2])
            # A strided layer has fewer queries than keys; otherwise one projection serves all three.
            groups = [projections[:1], projections[1:]] if self.stride > 1 else [projections]
            self.attention_projections = nn.ModuleList(
                _conv(
                    *(torch.cat(parts) for parts in zip(*group, strict=True)),
                    stride=self.stride if len(group) == 1 else 1,
                )
                for group in groups
            )
        if layer.has_convolution:
            # Heads may have different factors, so their kernels can no longer be shared.
            kind = _Dense if layer.shift_conv.is_faster_dense(layer.in_channels, self.num_heads) else _Factored
            self.convolution = kind(layer, scale * layer.conv_rate, shift)
        self.shift = None if layer.has_convolution else nn.Parameter(shift.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """As ``mmacmix.layers.ACmix``."""
        memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        x = x.contiguous(memory_format=torch.channels_last)
        out = self.shift if self.convolution is None else self.convolution(x)
        if self.attention_projections is not None:
            out = out + self._attention(x)
        return contiguous(out, memory_format)

    def _attention(self, x: Tensor) -> Tensor:
        projected = [projection(x) for projection in self.attention_projections]
        if len(projected) == 1:
            query, key, value = projected[0].chunk(3, 1)
        else:
            query, (key, value) = projected[0], projected[1].chunk(2, 1)
        query, key, value = (each.unflatten(1, (self.num_heads, -1)) for each in (query, key, value))
        key = key - self.position(coordinate_map(x))[:, None]
        out = neighborhood_attention(
            query, key, value, self.attention_kernel_size, self.stride, self.dilation, self.backend
        )
        return out.flatten(1, 2)


class _Factored(nn.Module):
    """The convolution path as a projection to the features and a group convolution."""

    def __init__(self, layer: TwoPaths, factor: Tensor, shift: Tensor) -> None:
        super().__init__()
        weight, bias, kernels = _factors(layer, factor)
        self.features = _conv(weight[..., None, None], bias)
        self.shifts = _conv(
            kernels, shift, layer.stride[0], layer.padding[0], layer.dilation[0], len(kernels) // layer.num_heads
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shifts(self.features(x))


class _Dense(nn.Module):
    """The convolution path as one dense convolution."""

    def __init__(self, layer: TwoPaths, factor: Tensor, shift: Tensor) -> None:
        super().__init__()
        weight, bias, kernels = _factors(layer, factor)
        self.weight, self.bias = nn.Parameter(merged_kernels(kernels, weight).detach()), nn.Parameter(shift)
        self.taps = nn.Parameter(merged_kernels(kernels, bias[:, None])[:, 0].detach())
        self.stride, self.dilation = layer.stride[0], layer.dilation[0]

    def forward(self, x: Tensor) -> Tensor:
        return dense_shift_conv(x, self.weight, self.taps, self.bias, self.stride, self.dilation)


def _factors(layer: TwoPaths, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight and bias of the projection to the features, and the group convolution's kernels times a factor."""
    path = layer.shift_conv
    weight, bias = feature_projection(*layer.joined_projections(), path.mixing, path.mixing_bias)
    return weight, bias, path.weight.repeat_interleave(path.sharing_heads, 0) * factor.view(-1, 1, 1, 1)


def _weight_and_bias(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    return conv.weight.detach(), conv.bias.detach()


def _conv(
    weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution with these weights."""
    conv = nn.Conv2d(
        weight.shape[1] * groups, len(weight), weight.shape[2], stride, padding, dilation, groups, device='meta'
    )
    conv.weight, conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return conv
