"""ACmix: self-attention and convolution in one layer (arXiv 2111.14556)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import (
    BACKENDS,
    attention_path,
    ceil_div,
    check_integers,
    check_window,
    contiguous,
    coordinate_map,
    is_compiling,
    neighborhood_attention,
    sum_paths,
)
from .arguments import check_choice, check_multiple
from .conv_signature import ConvSignature, Size
from .fused_acmix import FusedACmix
from .mixing_layer import Macs
from .shift_conv import ShiftConv
from .two_paths import TwoPaths


class ACmix(ConvSignature, TwoPaths):
    """A replacement for a ``k x k`` convolution, with its signature.

    Three 1x1 convolutions give query, key and value (stage I, section 4.1). Two paths share them (stage II): attention
    within a window of ``attention_kernel_size`` x ``attention_kernel_size`` pixels, and a convolution made of shifts.
    The output is ``attention_rate * attention + conv_rate * convolution`` (section 4.2, equation 14); both rates are
    learned.

    Usable as ``conv_cfg=dict(type='ACmix')`` wherever MMCV's layers take one, and as ``dcn=dict(type='ACmix')`` or
    in ``plugins`` in the ResNet of MMDetection and MMSegmentation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of ``num_heads``; None stands for ``in_channels``.
            Default: None.
        kernel_size: Side of the convolution path's kernel, odd. Default: 3.
        stride: Distance between output pixels in input pixels. Default: 1.
        padding: None or ``dilation * (kernel_size // 2)``, which keeps the size of the map. Default: None.
        dilation: Spacing of the kernel's taps and of the window's keys. Default: 1.
        groups: Must be 1. Default: 1.
        bias: Add a learned bias to the output. The projections always have one. Default: False.
        num_heads: Heads of the attention path. Default: 4.
        attention_kernel_size: Side of the attention window, odd. Default: 7.
        backend: Backend of ``mmacmix.ops.neighborhood_attention``. Default: ``'auto'``.
        paths: ``rates``, ``learn_rates`` and ``shift_form``, see ``mmacmix.layers.TwoPaths``.

    Raises:
        ValueError: A size is out of range, two sizes are incompatible, or an input has the wrong shape.
        TypeError: An input is not a tensor.
    """

    _abbr_ = 'acmix'  # the name that MMCV gives to plugins

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | None = None,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        num_heads: int = 4,
        attention_kernel_size: int = 7,
        backend: str = 'auto',
        **paths: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, **paths)
        out_channels = self.out_channels
        check_window(attention_kernel_size, name='attention_kernel_size')
        check_integers(num_heads=num_heads)
        check_multiple('num_heads', num_heads, out_channels=out_channels)
        check_choice(('auto', *BACKENDS), backend=backend)
        self.num_heads, self.attention_kernel_size, self.backend = num_heads, attention_kernel_size, backend

        head_dim = out_channels // num_heads
        self.query = nn.Conv2d(in_channels, out_channels, 1, stride=self.stride)
        self.key = nn.Conv2d(in_channels, out_channels, 1)
        self.value = nn.Conv2d(in_channels, out_channels, 1)
        if self.has_attention:
            self.position = nn.Conv2d(2, head_dim, 1)
        if self.has_convolution:
            self.shift_conv = ShiftConv(
                num_heads, head_dim, self.kernel_size[0], self.stride[0], self.dilation[0], form=self.shift_form
            )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
        self.check_input(x)
        # Both paths read all channels of a pixel at once. The output gets the memory format of the input, because later
        # operators may require it (mmcv's RoIAlign reads a channels_last map as if it were contiguous).
        memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        x = contiguous(x, torch.channels_last)
        parts = self.query, self.key, self.value
        weights, biases = [part.weight.flatten(1) for part in parts], [part.bias for part in parts]
        if x.device.type != 'cpu':
            weights = [self._by_head(torch.cat(weights))]
        attention = convolution = taps = rate = None
        bias = self.bias
        if self.has_convolution:
            convolution, taps = self._convolution(x, weights, biases)
        if self.has_attention:
            cancelled = self.position.bias
            if not self.has_convolution:  # whose path would use the key's bias
                cancelled = torch.cat((cancelled, self.key.bias))
            attention, is_complete = attention_path(
                x, weights, biases, self.position.weight.flatten(1), cancelled, self.attention_rate, self.num_heads,
                self.attention_kernel_size, self.stride[0], self.dilation[0], self.backend,
            )  # fmt: skip
            if not is_complete:
                bias, rate = self.value.bias, self.attention_rate
        stride, dilation = self.stride[0], self.dilation[0]
        out = sum_paths(attention, convolution, taps, bias, rate, x, stride, dilation, in_kernel=rate is not None)
        if rate is not None and self.bias is not None:
            out = out + self.bias.view(-1, 1, 1)
        return contiguous(out, memory_format)

    def _convolution(self, x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        # Channel d * num_heads + h, unlike the attention path: published checkpoints depend on this order.
        def path(x: Tensor) -> tuple[Tensor, Tensor | None]:
            weight = weights[0] if len(weights) == 1 else self._by_head(torch.cat(weights))
            return self.shift_conv.convolve(x, weight, torch.cat(biases), self.conv_rate)

        heads = self.num_heads // self.shift_conv.heads_per_kernel
        dense = self.shift_conv.dense_is_faster(self.in_channels, heads, x.device)
        # The dense form keeps its kernels for backward, the factored form maps.
        kernels = self.out_channels * self.in_channels * math.prod(self.kernel_size)
        # Compilers would compile the layer anew for maps on the other side of this bound.
        keeps_little = dense and (is_compiling() or x.device.type != 'cpu' or kernels < x.numel())
        return path(x) if keeps_little else self.recomputed(path, x)

    def joined_projections(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the concatenated projections to query, key and value.

        Returns:
            ``(3 * num_heads, head_dim, in_channels)`` and ``(3 * out_channels,)``.
        """
        projections = (self.query, self.key, self.value)
        weight = torch.cat([projection.weight for projection in projections]).flatten(1)
        return self._by_head(weight), torch.cat([projection.bias for projection in projections])

    def _by_head(self, weight: Tensor) -> Tensor:
        return weight.unflatten(0, (3 * self.num_heads, -1))

    def attention_of(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        query, key = (each.unflatten(1, (self.num_heads, -1)) for each in (self.query(x), self.key(x)))
        key = key - self.position(coordinate_map(x))[:, None]
        window = self.attention_kernel_size, self.stride[0], self.dilation[0]
        return key, lambda value: neighborhood_attention(query, key, value, *window, self.backend)

    def fuse(self, norm: _BatchNorm | None = None, dense: bool | None = None) -> FusedACmix:
        return FusedACmix(self, norm, dense)

    def macs(self, shape: Sequence[int]) -> Macs:
        batch, _, height, width = shape
        pixels, stride = batch * height * width, self.stride[0]
        queries = batch * ceil_div(height, stride) * ceil_div(width, stride)
        # Counted as published, with a query for every pixel; this layer skips those that the stride leaves out.
        projections = 3 * self.in_channels * self.out_channels * pixels
        attention = convolution = 0
        if self.has_attention:
            attention = 2 * self.attention_kernel_size**2 * self.out_channels * queries
            attention += self.position.weight.numel() * height * width
        if self.has_convolution:
            convolution = self.shift_conv.macs(pixels, queries)
        return Macs(projections, attention, convolution)

    def extra_repr(self) -> str:
        heads = f'num_heads={self.num_heads}, attention_kernel_size={self.attention_kernel_size}'
        return f'{super().extra_repr()}, {heads}'
