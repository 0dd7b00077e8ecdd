"""The tiles as exporters and compilers record them: few operations on joint maps, with the heads outermost.

``tiles`` explains the tiles. Here all of them are computed at once, since loops over chunks would be unrolled, and the
recorder differentiates.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import constant
from ..coordinates import coordinate_map
from ..exporting import are_numbers, is_exporting
from .tiles import Size, Window, autocast_disabled, indices_of, mask_of, tile_of

_TILE = 4, 4  # rows and columns of a tile's queries for exporters: runtimes are fast with small matrices


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """See ``mmacmix.ops.neighborhood_attention``."""
    maps = [each.flatten(1, 2) for each in (query, key, value)]
    return attend_to_maps(maps, query.shape[1], (kernel_size, stride, dilation)).unflatten(1, query.shape[1:3])


def attend_to_maps(maps: list[Tensor], num_heads: int, window: Window, position: Tensor | None = None) -> Tensor:
    """Attention among query, key and value.

    Args:
        maps: ``(B, n * C, H, W)``, n = 3 in all: together, the query apart, or three tensors.
        num_heads: Heads; C is a multiple.
        window: Kernel size, stride and dilation.
        position: ``(C / num_heads, 2)``, the projection of the coordinates, which is subtracted from the keys, or None.
            Default: None.

    Returns:
        ``(B, C, ceil(H / stride), ceil(W / stride))``.
    """
    batch, _, *size = maps[0].shape
    channels = sum(each.shape[1] for each in maps) // (3 * num_heads)
    query, key, value = (rows for each in maps for rows in _rows(each, num_heads, channels))
    if position is not None:
        key = key - coordinate_map(maps[-1])[0].flatten(1).t() @ position.t()
    # Recorders specialise on the size 1, so sizes of any length get one tile more than necessary on each axis.
    spare = int(not are_numbers(size))
    tile = _TILE if is_exporting() else tile_of(maps[0].device)
    tiling = _flat_tiling(maps[0], tuple(size), tuple(maps[-1].shape[2:]), window, tile, spare)
    mask = mask_of(maps[0], window, tile)
    query, key, value = (
        _gathered(rows, index, tiling.tiles, mask.dtype)
        for rows, index in ((query, tiling.queries), (key, tiling.keys), (value, tiling.keys))
    )
    if is_exporting():  # runtimes fuse plain products better than the exporters' form of the attention
        weights = torch.softmax(query * channels**-0.5 @ key.transpose(2, 3) + mask, 3)
        out = weights @ value
    else:
        with autocast_disabled(query.device):
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out = out.view(batch, num_heads, tiling.tiles * mask.shape[0], channels).index_select(2, tiling.places)
    out = out.transpose(2, 3).reshape(batch, num_heads * channels, *size)
    return out if out.dtype == maps[0].dtype else out.to(maps[0].dtype)


def _rows(maps: Tensor, num_heads: int, channels: int) -> tuple[Tensor, ...]:
    """``(B, n * heads * d, H, W)`` -> n tensors with a row for each pixel, ``(B, heads, H * W, d)``."""
    batch, _, height, width = maps.shape
    rows = maps.reshape(batch, -1, channels, height * width).transpose(2, 3)
    return rows.split(num_heads, 1) if rows.shape[1] > num_heads else (rows,)


def _gathered(rows: Tensor, index: Tensor, tiles: int, dtype: torch.dtype) -> Tensor:
    """``(B, heads, pixels, d)``, ``(tiles * n,)`` -> ``(B * heads, tiles, n, d)``."""
    batch, heads, _, channels = rows.shape
    gathered = rows.index_select(2, index).view(batch * heads, tiles, -1, channels)
    return gathered if gathered.dtype == dtype else gathered.to(dtype)


class _FlatTiling(NamedTuple):
    """A tiling as indices of pixels, see ``tiles``."""

    queries: Tensor  # (tiles * Q,)
    keys: Tensor  # (tiles * K,)
    places: Tensor
    tiles: int


@constant
def _flat_tiling(
    device: torch.device, query_size: Size, key_size: Size, window: Window, tile: Size, spare: int
) -> _FlatTiling:
    queries, keys, places = indices_of(torch.empty(0, device=device), query_size, key_size, window, tile, spare)
    return _FlatTiling(queries.flatten(), keys.flatten(), places, math.prod(queries.shape[:4]))
