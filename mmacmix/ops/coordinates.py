"""Pixel coordinates, the input of ACmix's position term."""

import torch
from torch import Tensor

from .constants import constant


def coordinate_map(x: Tensor, factor: int = 1) -> Tensor:
    """Coordinates of a map's pixels, from -1 at one border to 1 at the other: ``(1, 2, H, W)``, horizontal first.

    Args:
        x: ``(..., H, W)``; the result has its dtype and device.
        factor: Factor of the coordinates. Default: 1.
    """
    return _coordinates(x, *x.shape[-2:], x.dtype, factor)


@constant
def _coordinates(device: torch.device, height: int, width: int, dtype: torch.dtype, factor: int) -> Tensor:
    precise = torch.promote_types(dtype, torch.float32)
    # torch.linspace(-1, 1, side) would fix symbolic sides during export.
    ys, xs = (torch.arange(side, dtype=precise, device=device) for side in (height, width))
    ys, xs = (pixels * (2 / pixels[-1:].clamp(min=1)) - 1 for pixels in (ys, xs))
    coordinates = torch.stack((xs.expand(height, width), ys[:, None].expand(height, width)))[None]
    return (factor * coordinates).to(dtype)
