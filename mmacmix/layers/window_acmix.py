"""Swin's window attention with ACmix's second path (arXiv 2111.14556, section 4.4; Swin: arXiv 2103.14030)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import check_integers, dense_attention, is_exporting, padding_to_multiple, register_load_state_dict_pre_hook
from .arguments import check_multiple, check_probabilities, is_number
from .mixing_layer import Macs
from .shift_conv import ShiftConv
from .two_paths import TwoPaths


class WindowACmix(TwoPaths):
    """Attention within windows, plus a 3x3 convolution of the same query, key and value.

    The map is padded to whole windows at the bottom and right, rolled by ``shift_size``, and partitioned into windows.
    The output is ``attention_rate * proj(attention) + conv_rate * convolution``. With rates 1 and 0 it is plain Swin.

    By default the convolution runs on the *rolled* map, as in the published code. At the seam between the map's last
    and first rows or columns it mixes pixels of opposite borders, which the attention masks out. With
    ``conv_on_rolled=False`` it runs on the original map with zero padding. Only pixels next to the seam and the borders
    differ.

    If a side of the map is at most a window long, MMDetection and MMSegmentation shift the windows; the classifiers
    of the original Swin and the published ACmix-Swin do not. The attribute ``shift_single_window`` enables
    this shift. It is initially False, and is saved in the state dict, because converted weights depend on it.

    Args:
        channels: Channels of the input and the output, a multiple of ``num_heads``.
        num_heads: Attention heads.
        window_size: Side of the windows in pixels. Default: 7.
        shift_size: Pixels by which the map is rolled upwards and to the left, less than ``window_size``. Default: 0.
        qkv_bias: Bias of the projections to query, key and value. Default: True.
        qk_scale: Scale of the logits; None means ``head_dim ** -0.5``. Default: None.
        attn_drop_rate: Dropout of the attention weights. Default: 0.
        drop_rate: Dropout of the output. Default: 0.
        conv_on_rolled: Convolve the rolled map, as published. Default: True.
        paths: ``rates``, ``learn_rates`` and ``shift_form``, see ``mmacmix.layers.TwoPaths``.

    Raises:
        ValueError: A size is out of range, or two sizes are incompatible.
    """

    projections = ('qkv',)

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int = 7,
        shift_size: int = 0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        conv_on_rolled: bool = True,
        **paths: Any,
    ) -> None:
        super().__init__(**paths)
        check_integers(channels=channels, num_heads=num_heads, window_size=window_size)
        check_integers(0, shift_size=shift_size)
        check_multiple('num_heads', num_heads, channels=channels)
        if shift_size >= window_size:
            raise ValueError(f'shift_size must be 0 to window_size - 1, got {shift_size} and window_size {window_size}')
        if qk_scale is not None and not is_number(qk_scale):
            raise ValueError(f'qk_scale must be a number or None, got {qk_scale!r}')
        check_probabilities(attn_drop_rate=attn_drop_rate, drop_rate=drop_rate)
        self.num_heads, self.window_size, self.shift_size = num_heads, window_size, shift_size
        self.scale, self.attn_drop_rate, self.conv_on_rolled = qk_scale, attn_drop_rate, conv_on_rolled
        self.shift_single_window = False
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        if self.has_attention:
            self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
            self.register_buffer('relative_position_index', _relative_position_index(window_size), persistent=False)
            self.register_buffer('shift_mask', _shift_mask(window_size, shift_size), persistent=False)
            self.proj = nn.Linear(channels, channels)
        if self.has_convolution:
            self.shift_conv = ShiftConv(num_heads, channels // num_heads, mixing_bias=True, form=self.shift_form)
        self.drop = nn.Dropout(drop_rate)
        register_load_state_dict_pre_hook(self, _fit_checkpoint)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.shift_single_window)

    def set_extra_state(self, state: Tensor) -> None:
        self.shift_single_window = bool(state)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` to ``(B, H, W, C)``."""
        rolled, shift = self._rolled(x)
        out = 0
        if self.has_attention:
            out = self.attention_rate * self.proj(self._attention(*self._windows(self.qkv(rolled)), rolled, shift))
        if self.has_convolution and self.conv_on_rolled:
            out = out + self.conv_rate * self.recomputed(self._convolution, rolled)
        if self.has_attention or self.conv_on_rolled:
            out = _unrolled(out, shift, x)
        if self.has_convolution and not self.conv_on_rolled:
            out = out + self.conv_rate * self.recomputed(self._convolution, x)
        return self.drop(out)

    def attention_of(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        rolled, shift = self._rolled(x)
        query, key, _ = self._windows(self.qkv(rolled))

        def attend(value: Tensor) -> Tensor:
            (value,) = self._windows(self._rolled(value.flatten(1, 2).permute(0, 2, 3, 1))[0])
            out = _unrolled(self._attention(query, key, value, rolled, shift), shift, x)
            return out.permute(0, 3, 1, 2).unflatten(1, (self.num_heads, -1))

        return x.permute(0, 3, 1, 2).unflatten(1, (self.num_heads, -1)), attend

    def macs(self, shape: Sequence[int]) -> Macs:
        batch, height, width, channels = shape
        side = self.window_size
        padded = batch * (height + padding_to_multiple(height, side)) * (width + padding_to_multiple(width, side))
        attention = convolution = 0
        if self.has_attention:
            attention = (2 * side**2 * channels + channels**2) * padded
        if self.has_convolution:
            pixels = padded if self.conv_on_rolled else batch * height * width
            convolution = self.shift_conv.macs(pixels, pixels)
        return Macs(3 * channels**2 * padded, attention, convolution)

    def _windows(self, x: Tensor) -> Tensor:
        """Partition n concatenated maps ``(B, H, W, n * C)`` into ``(n, B, windows * heads, side^2, head_dim)``.

        Windows and heads share an axis, so that the mask broadcasts over images.
        """
        batch, height, width, channels = x.shape
        side, heads, head_dim = self.window_size, self.num_heads, self.qkv.in_features // self.num_heads
        rows, columns, maps = height // side, width // side, channels // self.qkv.in_features
        x = x.view(batch, rows, side, columns, side, maps, heads, head_dim).permute(5, 0, 1, 3, 6, 2, 4, 7)
        return x.reshape(maps, batch, rows * columns * heads, side**2, head_dim)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, like: Tensor, shift: int) -> Tensor:
        """Attend within windows; the result has the shape of the map ``like``, before the output projection."""
        side, heads = self.window_size, self.num_heads
        batch, height, width, _ = like.shape
        rows, columns = height // side, width // side
        mask = self._bias(rows, columns, shift).flatten(0, 2).to(query.dtype)
        out = dense_attention(query, key, value, mask, self.attn_drop_rate if self.training else 0.0, self.scale)
        out = out.view(batch, rows, columns, heads, side, side, query.shape[-1])
        return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(like.shape)

    def _rolled(self, x: Tensor) -> tuple[Tensor, int]:
        """The map, padded to whole windows and rolled, and the shift in pixels."""
        height, width = x.shape[1:3]
        bottom, right = (padding_to_multiple(side, self.window_size) for side in (height, width))
        several = height > self.window_size and width > self.window_size  # one comparison per side, for exporters
        shift = self.shift_size if self.shift_single_window or several else 0
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
        return x.roll((-shift, -shift), (1, 2)) if shift else x, shift

    def _bias(self, rows: int, columns: int, shift: int) -> Tensor:
        """The bias and mask added to the logits of each window: ``(rows, columns, heads, side^2, side^2)``."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if not shift:
            return bias.expand(rows, columns, -1, -1, -1)
        # The seam runs through the last row and the last column of windows.
        mask = self.shift_mask
        for dim, windows in enumerate((rows, columns)):
            mask = mask.index_select(dim, (torch.arange(windows, device=mask.device) == windows - 1).long())
        return bias + mask

    def _convolution(self, x: Tensor) -> Tensor:
        # Channel d * num_heads + h, unlike the attention path: published checkpoints depend on this order.
        out = self.shift_conv(x.permute(0, 3, 1, 2), self.qkv.weight, self.qkv.bias)
        return out.permute(0, 2, 3, 1)


def _unrolled(x: Tensor, shift: int, like: Tensor) -> Tensor:
    """Undo ``_rolled``: roll back, and crop to the height and width of the map ``like``."""
    x = x.roll((shift, shift), (1, 2)) if shift else x
    height, width = like.shape[1:3]
    if is_exporting():  # slices would become guards on whether the map was padded
        return x.index_select(1, torch.arange(height, device=x.device)).index_select(
            2, torch.arange(width, device=x.device)
        )
    return x[:, :height, :width]


def _relative_position_index(side: int) -> Tensor:
    """``(side^2, side^2)``: the row of the bias table for each query and key."""
    pixels = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')).flatten(1)
    rows, columns = pixels[:, :, None] - pixels[:, None] + side - 1
    return rows * (2 * side - 1) + columns


def _shift_mask(side: int, shift: int) -> Tensor:
    """``(2, 2, 1, side^2, side^2)``: -inf between pixels of a window on different sides of the seam, else 0.

    Indexed by whether a window is in the last row, and whether it is in the last column.
    """
    wrapped = torch.arange(side) >= side - shift
    sides = torch.stack((torch.zeros_like(wrapped), wrapped)).long()
    regions = (2 * sides[:, None, :, None] + sides[:, None]).flatten(2)
    return torch.where(regions[..., None] == regions[..., None, :], 0.0, -torch.inf)[:, :, None]


def _fit_checkpoint(module: WindowACmix, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Interpolate the bias table for another window size, as an image over positions; default the extra state."""
    state_dict.setdefault(f'{prefix}_extra_state', module.get_extra_state())
    name = f'{prefix}relative_position_bias_table'
    table, wanted = state_dict.get(name), getattr(module, 'relative_position_bias_table', None)
    if table is None or wanted is None or table.shape == wanted.shape or table.shape[1] != wanted.shape[1]:
        return
    old, new = (round(len(each) ** 0.5) for each in (table, wanted))
    image = F.interpolate(table.T.reshape(1, -1, old, old), size=(new, new), mode='bicubic')
    state_dict[name] = image.flatten(2)[0].T
