"""Pixel shift self-attention, the attention branch of X-volution (arXiv 2106.02253), as far as the paper's prose tells.

The map is multiplied, pixel by pixel, with copies of itself that are shifted by a few pixels. The products relate a
pixel to its neighbours; a convolution of them, a weighted sum over channels and shifts, approximates self-attention:

    y(p) = sum_i W_i ( x(p) * x(p + i) )

That is also a convolution of x itself, whose kernel the content makes: W_i diag(x(p)) at offset i. The cost grows with
the number of pixels, not with its square.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Offset = tuple[int, int]


def kernel_offsets(kernel_size: int, dilation: int = 1) -> list[Offset]:
    """Where the taps of a convolution's kernel look, row by row: pixels down and to the right."""
    steps = [dilation * (tap - kernel_size // 2) for tap in range(kernel_size)]
    return [(down, right) for down in steps for right in steps]


def shifted(x: Tensor, offsets: Sequence[Offset], stride: int = 1) -> list[Tensor]:
    """Copies of a map in which pixel p holds what was at ``p + offset``, and zeros where that lies outside.

    Args:
        x: ``(B, C, H, W)``.
        offsets: Pixels down and to the right.
        stride: Of every so many pixels one is kept. Default: 1.

    Returns:
        One map ``(B, C, ceil(H / stride), ceil(W / stride))`` an offset.
    """
    reach = max(abs(step) for offset in offsets for step in offset)
    height, width = x.shape[2:]
    padded = F.pad(x, [reach] * 4)
    return [
        padded[:, :, reach + down : reach + down + height : stride, reach + right : reach + right + width : stride]
        for down, right in offsets
    ]


def related(x: Tensor, maps: Sequence[Tensor], stride: int = 1) -> list[Tensor]:
    """The products of a map with shifted copies of itself, pixel by pixel."""
    centre = x[:, :, ::stride, ::stride]
    return [centre * each for each in maps]


def stacked(maps: Sequence[Tensor], groups: int = 1) -> Tensor:
    """Maps one after the other, as a 1x1 convolution of so many groups takes them: ``(B, len(maps) * C, h, w)``."""
    if groups == 1:
        return torch.cat(list(maps), 1)
    return torch.cat([each.unflatten(1, (groups, -1)) for each in maps], 2).flatten(1, 2)
