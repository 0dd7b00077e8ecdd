"""PVT's spatial-reduction attention with ACmix's second path (arXiv 2111.14556, table 2; PVT: arXiv 2102.12122)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import are_numbers, check_integers
from .arguments import check_multiple, check_probabilities
from .mixing_layer import Macs
from .normalization import build_norm
from .shift_conv import ShiftConv
from .two_paths import TwoPaths


class SpatialReductionACmix(TwoPaths):
    """Attention of every pixel to a map reduced by ``sr_ratio``, plus a 3x3 convolution of the same projections.

    The output is ``attention_rate * proj(attention) + conv_rate * convolution``. With rates 1 and 0 it is plain PVT.

    A reconstruction: no code of ACmix-PVT was published. The convolution path runs at full resolution; key and value
    of the reduced map are upsampled bilinearly instead of projected again, which agrees with the published sizes. As
    in ACmix-Swin, the fully connected layer has a bias, and only the attention has an output projection, ``proj``.

    Args:
        channels: Channels of the input and the output, a multiple of ``num_heads``.
        num_heads: Attention heads.
        sr_ratio: Spatial reduction: side in pixels of the patches that share a key and a value. Default: 1.
        qkv_bias: Bias of the projections to query, key and value. Default: True.
        attn_drop_rate: Dropout of the attention weights. Default: 0.
        drop_rate: Dropout of the output. Default: 0.
        norm_cfg: Normalisation of the reduced map, see ``mmacmix.layers.normalization.build_norm``.
            Default: ``dict(type='LN', eps=1e-6)``.
        paths: ``rates``, ``learn_rates`` and ``shift_form``, see ``mmacmix.layers.TwoPaths``.

    Raises:
        ValueError: A size is out of range, or two sizes are incompatible.
    """

    projections = ('query', 'key_value')

    def __init__(
        self,
        channels: int,
        num_heads: int,
        sr_ratio: int = 1,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        norm_cfg: dict = dict(type='LN', eps=1e-6),
        **paths: Any,
    ) -> None:
        super().__init__(**paths)
        check_integers(channels=channels, num_heads=num_heads, sr_ratio=sr_ratio)
        check_multiple('num_heads', num_heads, channels=channels)
        check_probabilities(attn_drop_rate=attn_drop_rate, drop_rate=drop_rate)
        self.num_heads, self.sr_ratio, self.attn_drop_rate = num_heads, sr_ratio, attn_drop_rate
        self.query = nn.Linear(channels, channels, bias=qkv_bias)
        self.key_value = nn.Linear(channels, 2 * channels, bias=qkv_bias)
        if sr_ratio > 1:
            self.reduce = nn.Conv2d(channels, channels, sr_ratio, sr_ratio)
            self.norm = build_norm(norm_cfg, channels)
        if self.has_attention:
            self.proj = nn.Linear(channels, channels)
        if self.has_convolution:
            self.shift_conv = ShiftConv(num_heads, channels // num_heads, mixing_bias=True, form=self.shift_form)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` to ``(B, H, W, C)``."""
        query, key_value = self.query(x), self.key_value(self._reduced(x))
        out = 0
        if self.has_attention:
            out = self.attention_rate * self.proj(self._attention(query, key_value))
        if self.has_convolution:
            out = out + self._convolution(query, key_value)
        return self.drop(out)

    def attention_of(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        query, key = self.query(x), self.key_value(self._reduced(x))[..., : x.shape[-1]]

        def attend(value: Tensor) -> Tensor:
            value = value.flatten(1, 2)
            if self.sr_ratio > 1:  # the pixels of a patch share its weight
                value = F.avg_pool2d(pad_to_patch(value, self.sr_ratio), self.sr_ratio)
            out = self._attention(query, torch.cat((key, value.permute(0, 2, 3, 1)), -1))
            return out.permute(0, 3, 1, 2).unflatten(1, (self.num_heads, -1))

        return query.permute(0, 3, 1, 2).unflatten(1, (self.num_heads, -1)), attend

    def macs(self, shape: Sequence[int]) -> Macs:
        batch, height, width, channels = shape
        pixels = height * width
        reduced = max(1, height // self.sr_ratio) * max(1, width // self.sr_ratio)
        attention = convolution = 0
        if self.sr_ratio > 1:
            attention = self.reduce.weight.numel() * reduced
        if self.has_attention:
            attention += 2 * channels * pixels * reduced + channels**2 * pixels
        if self.has_convolution:
            convolution = self.shift_conv.macs(pixels, pixels)
        projections = channels**2 * (pixels + 2 * reduced)
        return Macs(*(batch * part for part in (projections, attention, convolution)))

    def _reduced(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` to ``(B, max(1, H // sr_ratio), max(1, W // sr_ratio), C)``."""
        if self.sr_ratio == 1:
            return x
        return self.norm(self.reduce(pad_to_patch(x.permute(0, 3, 1, 2), self.sr_ratio)).permute(0, 2, 3, 1))

    def _attention(self, query: Tensor, key_value: Tensor) -> Tensor:
        # Pixels are flattened before key and value are separated: flattening slices, exporters rule out single images.
        maps = (query.flatten(1, 2), *key_value.flatten(1, 2).chunk(2, dim=-1))
        heads = (each.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for each in maps)
        out = F.scaled_dot_product_attention(*heads, dropout_p=self.attn_drop_rate if self.training else 0.0)
        return out.transpose(1, 2).reshape(query.shape)

    def _convolution(self, query: Tensor, key_value: Tensor) -> Tensor:
        query, key_value = (self.shift_conv.by_index(each.permute(0, 3, 1, 2)) for each in (query, key_value))
        if self.sr_ratio > 1:
            height, width = query.shape[3:]
            # Pixels after the last whole patch repeat the border of the upsampled map.
            key_value = F.interpolate(key_value.flatten(1, 2), scale_factor=self.sr_ratio, mode='bilinear')
            bottom, right = (side - new for side, new in zip((height, width), key_value.shape[2:], strict=True))
            if not are_numbers((bottom, right)) or bottom or right:
                padding = 0, max(0, right), 0, max(0, bottom)
                key_value = F.pad(key_value, padding, mode='replicate')[:, :, :height, :width]
            key_value = key_value.unflatten(1, (query.shape[1], -1))
        # Channel d * num_heads + h, unlike the attention path, as in every form of ACmix.
        projections = torch.cat((query, key_value), 2)
        return self.shift_conv.of_projections(projections, self.conv_rate).permute(0, 2, 3, 1)


def pad_to_patch(x: Tensor, patch_size: int) -> Tensor:
    """Pad ``(B, C, H, W)`` with zeros at the bottom and right to at least one patch.

    PVT drops incomplete patches, and with them all pixels of a smaller map.
    """
    bottom, right = (max(0, patch_size - side) for side in x.shape[2:])
    return F.pad(x, (0, right, 0, bottom))
