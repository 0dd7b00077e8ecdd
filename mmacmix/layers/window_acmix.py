"""Swin's window attention with ACmix's second path (arXiv 2111.14556, section 4.4; Swin: arXiv 2103.14030)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import check_integers, is_exporting, padding_to_multiple
from .arguments import check_multiple, check_probabilities, is_number
from .mixing_layer import Macs
from .shift_conv import ShiftConv
from .two_paths import TwoPaths


class WindowACmix(TwoPaths):
    """Attention within windows, plus a 3x3 convolution made of the same query, key and value.

    The map is padded at the bottom and right to whole windows, rolled by ``shift_size``, and partitioned into windows.
    The output is ``attention_rate * proj(attention) + conv_rate * convolution``. With rates 1 and 0 it is plain Swin.

    The published code convolves the *rolled* map, and so does this layer by default. At the seam, where the map's last
    rows and columns meet its first, the kernel then mixes pixels of opposite borders, which the attention masks out.
    With ``conv_on_rolled=False`` the map is convolved as it is, with zero padding. The two differ only on the pixels
    next to the seam and next to the borders.

    The classifiers of the original Swin and the published ACmix-Swin do not shift a map with a side no longer than a
    window; MMDetection and MMSegmentation do. The attribute ``shift_single_window``, initially False, decides. It is
    part of the state dict, so that converted weights give the network that they come from.

    Args:
        channels: Channels of the input and the output, a multiple of ``num_heads``.
        num_heads: Attention heads.
        window_size: Side of the windows in pixels. Default: 7.
        shift_size: Pixels by which the map is rolled up and left, less than ``window_size``. Default: 0.
        qkv_bias: Bias of the projections to query, key and value. Default: True.
        qk_scale: Factor of the logits; None stands for ``head_dim ** -0.5``. Default: None.
        attn_drop_rate: Dropout of the attention weights. Default: 0.
        drop_rate: Dropout of the output. Default: 0.
        conv_on_rolled: Convolve the rolled map, as published. Default: True.
        rates: Rates of attention and convolution, see ``mmacmix.layers.TwoPaths``. Default: ``(0.5, 0.5)``.
        learn_rates: Learn the rates; if not, a path with rate 0 is left out. Default: True.
        shift_form: Kernels of the convolution path, see ``mmacmix.layers.ShiftConv``. Default: ``'group'``.

    Raises:
        ValueError: A size is out of range, or two of them do not fit together.
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
        rates: Sequence[float] = (0.5, 0.5),
        learn_rates: bool = True,
        shift_form: str = 'group',
    ) -> None:
        super().__init__(rates, learn_rates)
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
            self.shift_conv = ShiftConv(num_heads, channels // num_heads, mixing_bias=True, form=shift_form)
        self.drop = nn.Dropout(drop_rate)
        self.register_load_state_dict_pre_hook(_fit_checkpoint)

    def get_extra_state(self) -> Tensor:
        """``shift_single_window``, for the state dict."""
        return torch.tensor(self.shift_single_window)

    def set_extra_state(self, state: Tensor) -> None:
        """``shift_single_window``, of a state dict."""
        self.shift_single_window = bool(state)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` to ``(B, H, W, C)``."""
        height, width = x.shape[1:3]
        rolled, shift = self._rolled(x)
        out = 0
        if self.has_attention:
            out = self.attention_rate * self.proj(self._attention(*self._windows(self.qkv(rolled)), rolled, shift))
        if self.has_convolution and self.conv_on_rolled:
            out = out + self.conv_rate * self.recomputed(self._convolution, rolled)
        if self.has_attention or self.conv_on_rolled:
            out = _crop(_roll(out, shift), height, width)
        if self.has_convolution and not self.conv_on_rolled:
            out = out + self.conv_rate * self.recomputed(self._convolution, x)
        return self.drop(out)

    def attention_of(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        height, width = x.shape[1:3]
        rolled, shift = self._rolled(x)
        query, key, _ = self._windows(self.qkv(rolled))

        def attend(value: Tensor) -> Tensor:
            (value,) = self._windows(self._rolled(value.flatten(1, 2).permute(0, 2, 3, 1))[0])
            out = _crop(_roll(self._attention(query, key, value, rolled, shift), shift), height, width)
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
        """Partition ``(B, H, W, n * C)``, n maps side by side, into ``(n, B, windows * heads, side^2, head_dim)``.

        Windows and heads are one axis, so that one mask serves all images.
        """
        batch, height, width, channels = x.shape
        side, heads, head_dim = self.window_size, self.num_heads, self.qkv.in_features // self.num_heads
        rows, columns, maps = height // side, width // side, channels // self.qkv.in_features
        x = x.view(batch, rows, side, columns, side, maps, heads, head_dim).permute(5, 0, 1, 3, 6, 2, 4, 7)
        return x.reshape(maps, batch, rows * columns * heads, side**2, head_dim)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, like: Tensor, shift: int) -> Tensor:
        """Attend within windows; the result is a map like ``like``, heads concatenated and not yet projected."""
        side, heads = self.window_size, self.num_heads
        batch, rows, columns = len(like), like.shape[1] // side, like.shape[2] // side
        bias = self._bias(rows, columns, shift)
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=bias.flatten(0, 2).to(query.dtype),
            dropout_p=self.attn_drop_rate if self.training else 0.0,
            scale=self.scale,
        )
        out = out.view(batch, rows, columns, heads, side, side, query.shape[-1])
        return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(like.shape)

    def _rolled(self, x: Tensor) -> tuple[Tensor, int]:
        """The map, padded to whole windows and rolled, and by how many pixels."""
        height, width = x.shape[1:3]
        bottom, right = (padding_to_multiple(side, self.window_size) for side in (height, width))
        several = height > self.window_size and width > self.window_size  # separate comparisons: exporters guard each
        shift = self.shift_size if self.shift_single_window or several else 0
        return _roll(F.pad(x, (0, 0, 0, right, 0, bottom)), -shift), shift

    def _bias(self, rows: int, columns: int, shift: int) -> Tensor:
        """The bias and mask added to the logits of each window: ``(rows, columns, heads, side^2, side^2)``."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if not shift:
            return bias.expand(rows, columns, -1, -1, -1)
        # The seam of the roll runs through the last row and the last column of windows.
        mask = self.shift_mask
        for dim, windows in enumerate((rows, columns)):
            mask = mask.index_select(dim, (torch.arange(windows, device=mask.device) == windows - 1).long())
        return bias + mask

    def _convolution(self, x: Tensor) -> Tensor:
        # Channel d * num_heads + h, unlike the attention path: the published order, which checkpoints depend on.
        out = self.shift_conv(x.permute(0, 3, 1, 2), self.qkv.weight, self.qkv.bias)
        return out.permute(0, 2, 3, 1)


def _crop(x: Tensor, height: int, width: int) -> Tensor:
    """The first rows and columns of ``(B, H, W, C)``."""
    if is_exporting():  # with slices, an exporter would guard on whether anything is cropped
        return x.index_select(1, torch.arange(height)).index_select(2, torch.arange(width))
    return x[:, :height, :width]


def _roll(x: Tensor, pixels: int) -> Tensor:
    return x.roll((pixels, pixels), (1, 2)) if pixels else x


def _relative_position_index(side: int) -> Tensor:
    """``(side^2, side^2)``: the row of the bias table for each query and key."""
    pixels = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')).flatten(1)
    rows, columns = pixels[:, :, None] - pixels[:, None] + side - 1
    return rows * (2 * side - 1) + columns


def _shift_mask(side: int, shift: int) -> Tensor:
    """``(2, 2, 1, side^2, side^2)``: -inf between pixels of a window that only the roll made neighbours, else 0.

    The first axis is for windows outside of the last row and in it, the second for windows outside of the last column
    and in it.
    """
    wrapped = torch.arange(side) >= side - shift
    inside = torch.zeros_like(wrapped)
    masks = torch.zeros(2, 2, 1, side**2, side**2)
    for last_row, rows in enumerate((inside, wrapped)):
        for last_column, columns in enumerate((inside, wrapped)):
            part = (2 * rows[:, None] + columns).flatten()
            masks[last_row, last_column].masked_fill_(part[:, None] != part, -torch.inf)
    return masks


def _fit_checkpoint(module: WindowACmix, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Interpolate the bias table of a checkpoint with windows of another size, as an image of offsets."""
    state_dict.setdefault(f'{prefix}_extra_state', module.get_extra_state())
    name = f'{prefix}relative_position_bias_table'
    table, wanted = state_dict.get(name), getattr(module, 'relative_position_bias_table', None)
    if table is None or wanted is None or table.shape == wanted.shape or table.shape[1] != wanted.shape[1]:
        return
    old, new = (round(len(each) ** 0.5) for each in (table, wanted))
    image = table.T.reshape(1, -1, old, old)
    image = F.interpolate(image, size=(new, new), mode='bicubic')
    state_dict[name] = image.flatten(2)[0].T
