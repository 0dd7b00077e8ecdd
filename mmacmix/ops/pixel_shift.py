"""Pixel shift self-attention, the attention branch of X-volution, following the text of arXiv 2106.02253.

The map is multiplied, pixel by pixel, with shifted copies of itself. A convolution of the products, a weighted sum
over channels and shifts, approximates self-attention:

    y(p) = sum_i W_i ( x(p) * x(p + i) )

Equivalently, x is convolved with a kernel that depends on the content: W_i diag(x(p)) at offset i. The cost is linear
in the number of pixels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Offset = tuple[int, int]


def kernel_offsets(kernel_size: int, dilation: int = 1) -> list[Offset]:
    """Offsets of a convolution kernel's taps in row-major order, in pixels down and to the right."""
    steps = [dilation * (tap - kernel_size // 2) for tap in range(kernel_size)]
    return [(down, right) for down in steps for right in steps]


def shifted(x: Tensor, offsets: Sequence[Offset], stride: int = 1) -> list[Tensor]:
    """Shifted copies of a map: pixel p of each copy is pixel ``p + offset`` of ``x``, or zero outside the map.

    Args:
        x: ``(B, C, H, W)``.
        offsets: Pixels down and to the right.
        stride: Step between the pixels that are kept. Default: 1.

    Returns:
        One map ``(B, C, ceil(H / stride), ceil(W / stride))`` per offset.
    """
    reach = max(abs(step) for offset in offsets for step in offset)
    height, width = x.shape[2:]
    padded = F.pad(x, [reach] * 4)
    return [
        padded[:, :, reach + down : reach + down + height : stride, reach + right : reach + right + width : stride]
        for down, right in offsets
    ]


def related(x: Tensor, maps: Sequence[Tensor], stride: int = 1) -> list[Tensor]:
    """Element-wise products of ``x``, subsampled by ``stride``, with its shifted copies."""
    centre = x[:, :, ::stride, ::stride]
    return [centre * each for each in maps]


def stacked(maps: Sequence[Tensor], groups: int = 1) -> Tensor:
    """Concatenate maps as a 1x1 convolution with ``groups`` groups takes them: ``(B, len(maps) * C, h, w)``."""
    if groups == 1:  # keeps channels_last memory
        return torch.cat(list(maps), 1)
    return torch.cat([each.unflatten(1, (groups, -1)) for each in maps], 2).flatten(1, 2)
