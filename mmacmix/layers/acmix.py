"""ACmix: self-attention and convolution in one layer (arXiv 2111.14556)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import (
    BACKENDS,
    ceil_div,
    check_integers,
    check_window,
    contiguous,
    coordinate_map,
    neighborhood_attention,
)
from .arguments import check_choice, check_multiple
from .conv_signature import ConvSignature
from .fused_acmix import FusedACmix
from .mixing_layer import Macs
from .shift_conv import ShiftConv
from .two_paths import TwoPaths


class ACmix(ConvSignature, TwoPaths):
    """A replacement for a ``k x k`` convolution, with its signature.

    Three 1x1 convolutions give query, key and value (stage I, section 4.1). Two paths use them (stage II): attention
    to the ``attention_kernel_size`` x ``attention_kernel_size`` neighbours, and a convolution made of shifts. The
    output is ``attention_rate * attention + conv_rate * convolution`` (section 4.2, equation 14), both rates learned
    from 0.5.

    Usable as ``conv_cfg=dict(type='ACmix')`` wherever MMCV's layers take one, and as ``dcn=dict(type='ACmix')`` in the
    ResNet of MMDetection and MMSegmentation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; a multiple of ``num_heads``.
        kernel_size: Side of the convolution path's kernel, odd. Default: 3.
        stride: Output pixels are ``stride`` input pixels apart. Default: 1.
        padding: Only ``dilation * (kernel_size // 2)``, which keeps the size; None stands for it. Default: None.
        dilation: Spacing of the kernel's taps and of the window's keys. Default: 1.
        groups: Only 1; part of a convolution's signature. Default: 1.
        bias: Add a learned bias to the output. The projections always have one. Default: False.
        num_heads: Heads of the attention path. Default: 4.
        attention_kernel_size: Side of the attention window, odd. Default: 7.
        backend: Backend of ``mmacmix.ops.neighborhood_attention``. Default: ``'auto'``.
        rates: Rates of attention and convolution, see ``mmacmix.layers.TwoPaths``. Default: ``(0.5, 0.5)``.
        learn_rates: Learn the rates; if not, a path with rate 0 is left out. Default: True.
        shift_form: Kernels of the convolution path, see ``mmacmix.layers.ShiftConv``. Default: ``'group'``.

    Raises:
        ValueError: A size is out of range, or two of them do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = False,
        num_heads: int = 4,
        attention_kernel_size: int = 7,
        backend: str = 'auto',
        rates: Sequence[float] = (0.5, 0.5),
        learn_rates: bool = True,
        shift_form: str = 'group',
    ) -> None:
        super().__init__(rates, learn_rates)
        self.set_signature(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self.check_groups()
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
                num_heads, head_dim, self.kernel_size[0], self.stride[0], self.dilation[0], form=shift_form
            )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: It has another shape.
        """
        self.check_input(x)
        # Both paths read whole pixels. Later operators may rely on NCHW memory (mmcv's RoIAlign reads a channels_last
        # map as if it were NCHW), so the output gets the input's memory format back.
        memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        x = x.contiguous(memory_format=torch.channels_last)
        out = 0
        if self.has_attention:
            out = self._attention(x)
        if self.has_convolution:
            out = out + self.recomputed(self._convolution, x)
        if self.bias is not None:
            out = out + self.bias.view(-1, 1, 1)
        return contiguous(out, memory_format)

    def _attention(self, x: Tensor) -> Tensor:
        # The weights of a window sum to 1, so scaling the values scales the output, and is cheaper.
        value = F.conv2d(x, self.attention_rate * self.value.weight, self.attention_rate * self.value.bias)
        value = value.unflatten(1, (self.num_heads, -1))
        return self.attend(*self._query_and_key(x), value).flatten(1, 2)  # channel h * head_dim + d

    def _query_and_key(self, x: Tensor) -> tuple[Tensor, Tensor]:
        query, key = (each.unflatten(1, (self.num_heads, -1)) for each in (self.query(x), self.key(x)))
        # The logits are query_i . (key_j + position_i - position_j). position_i is the same for all j of a window, so
        # the softmax cancels it, and with it the bias of the position convolution.
        return query, key - self.position(coordinate_map(x))[:, None]

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The layer's ``mmacmix.ops.neighborhood_attention``."""
        return neighborhood_attention(
            query, key, value, self.attention_kernel_size, self.stride[0], self.dilation[0], self.backend
        )

    def _convolution(self, x: Tensor) -> Tensor:
        # Channel d * num_heads + h, unlike the attention path: the published order, which checkpoints depend on.
        return self.shift_conv(x, *self.joined_projections(), self.conv_rate)

    def joined_projections(self) -> tuple[Tensor, Tensor]:
        """Weight ``(3 * out_channels, in_channels)`` and bias of query, key and value as one projection."""
        projections = (self.query, self.key, self.value)
        weight = torch.cat([projection.weight for projection in projections]).flatten(1)
        return weight, torch.cat([projection.bias for projection in projections])

    def attention_of(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        query, key = self._query_and_key(x)
        return key, lambda value: self.attend(query, key, value)

    def fuse(self, norm: _BatchNorm | None = None) -> FusedACmix:
        return FusedACmix(self, norm)

    def macs(self, shape: Sequence[int]) -> Macs:
        batch, _, height, width = shape
        pixels, stride = batch * height * width, self.stride[0]
        queries = batch * ceil_div(height, stride) * ceil_div(width, stride)
        # As published, projections are computed at every pixel; this layer leaves out queries that no output needs.
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
