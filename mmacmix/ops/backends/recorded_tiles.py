"""The tiles as exporters and compilers record them: few operations on joint maps, with the heads outermost.

``tiles`` explains the tiles. Here all of them are computed at once, since loops over chunks would be unrolled, and the
recorder differentiates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..coordinates import coordinate_map
from ..exporting import is_exporting
from .tiles import Window, autocast_disabled, tiling_of


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """See ``mmacmix.ops.neighborhood_attention``."""
    maps = [each[:, None] for each in (query, key, value)]
    return attend_to_maps(maps, (kernel_size, stride, dilation))


def attend_to_maps(maps: list[Tensor], window: Window, position: Tensor | None = None) -> Tensor:
    """Attention among query, key and value.

    Args:
        maps: ``(B, n, heads, head_dim, H, W)``, n = 3 in all: together, the query apart, or three tensors.
        window: Kernel size, stride and dilation.
        position: ``(head_dim, 2)``, the projection of the coordinates, which is subtracted from the keys, or None.
            Default: None.

    Returns:
        ``(B, heads, head_dim, ceil(H / stride), ceil(W / stride))``.
    """
    batch, _, heads, channels, *size = maps[0].shape
    query, key, value = (rows for each in maps for rows in _rows(each))
    if position is not None:
        key = key - coordinate_map(maps[-1])[0].flatten(1).t() @ position.t()
    # Exporters specialise on the size 1, so symbolic sizes get one tile more than necessary on each axis.
    tiling = tiling_of(maps[0], maps[-1], window, 0 if all(isinstance(side, int) for side in size) else 1)
    query, key, value = (
        rows.index_select(2, index.flatten()).to(tiling.mask.dtype).view(batch * heads, -1, index.shape[4], channels)
        for rows, index in ((query, tiling.queries), (key, tiling.keys), (value, tiling.keys))
    )
    if is_exporting():  # runtimes fuse plain products better than the exporters' form of the attention
        weights = torch.softmax(query * channels**-0.5 @ key.transpose(2, 3) + tiling.mask, 3)
        out = weights @ value
    else:
        with autocast_disabled(query.device):
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=tiling.mask)
    out = out.view(batch, heads, -1, channels).index_select(2, tiling.places)
    return out.transpose(2, 3).unflatten(3, size).to(maps[0].dtype)


def _rows(maps: Tensor) -> tuple[Tensor, ...]:
    """``(B, n, heads, head_dim, H, W)`` -> n tensors of one row per pixel, ``(B, heads, H * W, head_dim)``."""
    return maps.flatten(1, 2).flatten(3).transpose(2, 3).chunk(maps.shape[1], 1)
