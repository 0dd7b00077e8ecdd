"""SAN's patchwise self-attention with ACmix's second path (arXiv 2111.14556, table 2; SAN: arXiv 2004.13621)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import aggregate, check_integers, check_window, windows
from .arguments import check_multiple
from .mixing_layer import Macs
from .normalization import build_norm
from .shift_conv import ShiftConv
from .two_paths import TwoPaths


class PatchwiseACmix(TwoPaths):
    """Attention whose weights a small network computes from the whole patch, plus a 3x3 convolution.

    Patchwise self-attention has no softmax: a network of two layers maps a pixel's query and the keys of its window to
    the window's weights, which groups of ``share`` channels have in common. Borders are reflected.

    A reconstruction: no code of ACmix-SAN was published. Query and key have ``1 / num_heads`` of the value's channels.
    The convolution path has no projections of its own; for each index of ``head_dim`` it mixes one channel of the
    query, one of the key and ``num_heads`` of the value.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output, a multiple of ``num_heads`` and of ``share``; query and key have
            ``channels / num_heads``.
        attention_kernel_size: Side of the attention window, odd. Default: 7.
        num_heads: Channels of the value per channel of the key. Default: 4.
        share: Channels that share an attention weight. Default: 8.
        norm_cfg: Normalisation inside the network that computes the weights, see
            ``mmacmix.layers.normalization.build_norm``. Default: ``dict(type='BN')``.
        paths: ``rates``, ``learn_rates`` and ``shift_form``, see ``mmacmix.layers.TwoPaths``.

    Raises:
        ValueError: A size is out of range, or two sizes are incompatible.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        attention_kernel_size: int = 7,
        num_heads: int = 4,
        share: int = 8,
        norm_cfg: dict = dict(type='BN'),
        **paths: Any,
    ) -> None:
        super().__init__(**paths)
        check_window(attention_kernel_size, name='attention_kernel_size')
        check_integers(in_channels=in_channels, channels=channels, num_heads=num_heads, share=share)
        check_multiple('num_heads', num_heads, channels=channels)
        check_multiple('share', share, channels=channels)
        self.attention_kernel_size = attention_kernel_size
        head_dim, groups, positions = channels // num_heads, channels // share, attention_kernel_size**2
        self.query = nn.Conv2d(in_channels, head_dim, 1)
        self.key = nn.Conv2d(in_channels, head_dim, 1)
        self.value = nn.Conv2d(in_channels, channels, 1)
        if self.has_attention:
            inputs = head_dim * (1 + positions)
            self.weights = nn.Sequential(
                build_norm(norm_cfg, inputs),
                nn.ReLU(inplace=True),
                nn.Conv2d(inputs, groups, 1, bias=False),
                build_norm(norm_cfg, groups),
                nn.ReLU(inplace=True),
                nn.Conv2d(groups, groups * positions, 1),
            )
        if self.has_convolution:
            self.shift_conv = ShiftConv(num_heads, head_dim, inputs=2 + num_heads, form=self.shift_form)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels, H, W)``."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        out = 0
        if self.has_attention:
            # Attention is linear in the values; scaling the output instead could overflow float16.
            out = aggregate(self.attention_rate * value, self._weights(query, key), self.attention_kernel_size)
        if self.has_convolution:
            projections = torch.cat([self.shift_conv.by_index(each) for each in (query, key, value)], 2)
            out = out + self.shift_conv.of_projections(projections, self.conv_rate)
        return out

    def attention_of(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """As in the base class; a head is a group of channels that share weights."""
        weights = self._weights(self.query(x), self.key(x))
        values = weights.new_zeros(len(x), weights.shape[1], 1, *x.shape[2:])
        return values, lambda value: aggregate(value[:, :, 0], weights, self.attention_kernel_size)[:, :, None]

    def macs(self, shape: Sequence[int]) -> Macs:
        pixels = shape[0] * shape[2] * shape[3]
        projections = sum(getattr(self, name).weight.numel() for name in self.projections)
        attention = convolution = 0
        if self.has_attention:
            network = sum(module.weight.numel() for module in self.weights if isinstance(module, nn.Conv2d))
            attention = network + self.attention_kernel_size**2 * self.value.out_channels
        if self.has_convolution:
            convolution = self.shift_conv.macs(1, 1)
        return Macs(*(pixels * part for part in (projections, attention, convolution)))

    def _weights(self, query: Tensor, key: Tensor) -> Tensor:
        """``(B, groups, k^2, H, W)``."""
        side = self.attention_kernel_size
        patch = torch.stack(windows(key, side), 2).flatten(1, 2)  # channels, then window positions, as nn.Unfold
        return self.weights(torch.cat((query, patch), 1)).unflatten(1, (-1, side**2))
