"""Neighbourhood attention as dense attention within tiles, on any device.

The map is cut into tiles of queries. The keys that any query of a tile can see, the tile and its halo, are gathered by
one index, which includes the reflection at the borders. Each tile is then an ordinary attention of all its queries to
all its keys, and a mask, the same for every tile, removes the keys outside each query's window. docs/backends.md has a
drawing.

Backward gathers the tiles again and recomputes their attention, so training keeps only the query, key and value maps.
The gradients of the tiles' keys are added where tiles overlap, in a fixed order.

A dilated window sees every ``dilation``-th pixel. Queries whose positions have the same residue modulo the dilation
share keys and form their own tiles.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import MOST_HEADS
from ..borders import reflect, residues_and_step
from ..constants import constant
from ..sizes import ceil_div
from .derivatives import refuse_second_derivatives

_CHUNK = 1 << 18  # elements of the tiles' keys at a time per thread of a CPU: few enough for the cache

Size = tuple[int, int]
Window = tuple[int, int, int]  #: kernel size, stride, dilation


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int
) -> Tensor:
    """See ``mmacmix.ops.neighborhood_attention``. On a CPU, float16 and bfloat16 are computed in float32."""
    return _TiledAttention.apply(query, key, value, (kernel_size, stride, dilation))


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, window):
        ctx.save_for_backward(query, key, value)
        ctx.window = window
        tiling = _tiling(query, key, window)
        maps = [_pixels(each) for each in (query, key, value)]
        with autocast_disabled(query.device):
            outputs = [_attend(*tiles, query.shape[1], tiling.mask) for _, tiles in _chunks(maps, query, tiling)]
        return _untiled(outputs, query, tiling)

    @staticmethod
    def backward(ctx, grad):
        return *_Gradients.apply(grad, *ctx.saved_tensors, ctx.window), None


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad, query, key, value, window):
        tiling = _tiling(query, key, window)
        rows, columns, is_query = _overlaps(query, *_sizes(query, key), window)
        maps = [_pixels(each) for each in (query, key, value, grad)]
        channels, precise = maps[0].shape[2], torch.promote_types(query.dtype, torch.float32)
        padded = grad.new_zeros(2, len(query), rows.padded_length, columns.padded_length, channels, dtype=precise)
        grad_queries = []
        for part, (*tiles, grads) in _chunks(maps, query, tiling):
            if is_query is not None:
                grads.view(len(query), -1, channels).mul_(is_query[part].flatten()[:, None])
            with torch.enable_grad(), autocast_disabled(query.device):
                tiles = [each.requires_grad_() for each in tiles]
                output = _attend(*tiles, query.shape[1], tiling.mask)
                grad_query, *grad_keys_values = torch.autograd.grad(output, tiles, grads)
            grad_queries.append(grad_query)
            for total, overlapping in zip(padded, grad_keys_values, strict=True):
                _add_tiles(total, overlapping, part, rows, columns)
        return _untiled(grad_queries, query, tiling), *_unpadded(padded, key, rows, columns)

    @staticmethod
    def backward(ctx, *grads):
        refuse_second_derivatives()


# -- tiles -----------------------------------------------------------------------------------------
# Tiles have four axes: residues and tiles of the rows, residues and tiles of the columns; `tiles` stands for them.


class _Axis(NamedTuple):
    """One axis of the map, cut into tiles."""

    queries: Tensor  # (residues, tiles, queries per tile): positions; those of a partial tile go beyond the map
    keys: Tensor  # (residues, tiles, keys per tile): positions before reflection
    tile_of: Tensor  # (queries,): the tile of each query, residues and tiles flattened
    index_of: Tensor  # (queries,): its index in the tile


def _axis(queries: int, tile: int, window: Window, like: Tensor, spare: int) -> _Axis:
    stride, dilation = window[1:]
    residues, _ = residues_and_step(stride, dilation)
    tiles = ceil_div(ceil_div(queries, residues), tile) + spare
    first_queries, first_keys = _first_tiles(like, tile, window)
    start = torch.arange(tiles, device=like.device).unsqueeze(1) * (tile * residues)
    position = torch.arange(queries, device=like.device)
    rank = position // residues
    return _Axis(
        first_queries + start,
        first_keys + start * stride,
        position % residues * tiles + rank // tile,
        rank % tile,
    )


@constant
def _first_tiles(device: torch.device, tile: int, window: Window) -> tuple[Tensor, Tensor]:
    """Positions of the queries and keys of each residue's first tile along one axis: ``(residues, 1, n)``."""
    kernel_size, stride, dilation = window
    residues, step = residues_and_step(stride, dilation)
    residue, query, key = (
        torch.arange(size, device=device) for size in (residues, tile, (tile - 1) * step + kernel_size)
    )
    residue = residue[:, None, None]
    return residue + query * residues, residue * stride + (key - kernel_size // 2) * dilation


def mask_of(query: Tensor, window: Window, tile: Size) -> Tensor:
    """``(Q, K)``, added to the scores: 0 in a query's window, else -inf. On a CPU, it is float32 or wider."""
    precise = query.device.type == 'cpu' and query.dtype.itemsize < 4
    return _mask(query, window, tile, torch.float32 if precise else query.dtype)


@constant
def _mask(device: torch.device, window: Window, tile: Size, dtype: torch.dtype) -> Tensor:
    kernel_size, stride, dilation = window
    _, step = residues_and_step(stride, dilation)
    sees = []
    for side in tile:
        query, key = (torch.arange(size, device=device) for size in (side, (side - 1) * step + kernel_size))
        ahead = key - query[:, None] * step
        sees.append((ahead >= 0) & (ahead < kernel_size))
    hidden = ~(sees[0][:, None, :, None] & sees[1][:, None]).flatten(2).flatten(0, 1)
    return _aligned(torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill(hidden, -math.inf))


class _Tiling(NamedTuple):
    """How a map is cut into tiles of Q queries and K keys."""

    queries: Tensor  # (tiles, Q): the pixel of each query; partial tiles repeat their last row or column
    keys: Tensor  # (tiles, K): the pixel of each key
    places: Tensor  # (queries,): index of each query in the flattened ``queries``
    mask: Tensor  # (Q, K), see ``mask_of``


def _tiling(query: Tensor, key: Tensor, window: Window) -> _Tiling:
    tile = tile_of(query.device)
    return _Tiling(*indices_of(query, *_sizes(query, key), window, tile), mask_of(query, window, tile))


@constant
def indices_of(
    device: torch.device, query_size: Size, key_size: Size, window: Window, tile: Size, spare: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """``queries``, ``keys`` and ``places`` of a ``_Tiling``; each axis gets ``spare`` more tiles than necessary."""
    like = torch.empty(0, device=device)
    axes = rows, columns = [_axis(*sizes, window, like, spare) for sizes in zip(query_size, tile, strict=True)]
    queries = [axis.queries.clamp(max=side - 1) for axis, side in zip(axes, query_size, strict=True)]
    keys = [reflect(axis.keys, side) for axis, side in zip(axes, key_size, strict=True)]
    row_of_tiles = math.prod((*columns.queries.shape[:2], *tile))  # queries
    place_of_row = rows.tile_of * row_of_tiles + rows.index_of * tile[1]
    place_of_column = columns.tile_of * math.prod(tile) + columns.index_of
    return (
        _combined(queries[0] * query_size[1], queries[1]),
        _combined(keys[0] * key_size[1], keys[1]),
        (place_of_row.unsqueeze(1) + place_of_column).flatten(),
    )


def tile_of(device: torch.device) -> Size:
    """Rows and columns of a tile's queries. Small tiles have fewer masked scores, large ones fewer copies of keys."""
    return (4, 8) if device.type == 'cpu' else (8, 8)


def _combined(rows: Tensor, columns: Tensor) -> Tensor:
    """``(residues, tiles, n)`` of both axes -> the sums ``(residues, tiles, residues, tiles, n * n)``."""
    # Views, because exporters would record every axis of an index.
    (residues, tiles, n), size = rows.shape, columns.shape
    rows, columns = rows.view(residues, tiles, 1, 1, n, 1), columns.view(*size[:2], 1, size[2])
    return (rows + columns).flatten(4)


def _aligned(mask: Tensor) -> Tensor:
    """The mask with rows that start at multiples of 8 elements; CUDA would copy others for every attention."""
    keys = mask.shape[1]
    return F.pad(mask, (0, -keys % 8))[:, :keys]


def _sizes(query: Tensor, key: Tensor) -> tuple[Size, Size]:
    return tuple(query.shape[-2:]), tuple(key.shape[-2:])


def _pixels(maps: Tensor) -> Tensor:
    """``(B, heads, d, H, W)`` -> ``(B, H * W, heads * d)``, a view of a channels_last map."""
    pixels = maps.permute(0, 3, 4, 1, 2).flatten(3).flatten(1, 2)
    # On a CPU, every index_select would first copy a map with another memory layout as a whole.
    return pixels.contiguous() if maps.device.type == 'cpu' else pixels


def _gathered(pixels: Tensor, index: Tensor) -> Tensor:
    """``(B, pixels, C)``, ``(tiles, n)`` -> ``(B * tiles, n, C)``."""
    return pixels.index_select(1, index.flatten()).view(-1, index.shape[4], pixels.shape[2])


def _chunks(maps: list[Tensor], query: Tensor, tiling: _Tiling) -> Iterator[tuple[tuple[slice, ...], list[Tensor]]]:
    """Slices of the tiles' axes, and those tiles of the maps: queries, keys, values, and gradients of the outputs."""
    if query.device.type == 'cpu':
        keys = query.shape[0] * tiling.keys.shape[4] * maps[0].shape[2]
        limit = _CHUNK * torch.get_num_threads() // keys
    else:
        limit = MOST_HEADS // query.shape[0]
    chunk = []
    for size in reversed(tiling.queries.shape[:4]):
        chunk.insert(0, min(size, max(limit, 1)))
        limit //= size
    slices = (
        [slice(first, min(first + part, size)) for first in range(0, size, part)]
        for size, part in zip(tiling.queries.shape, chunk, strict=False)
    )
    for part in product(*slices):
        queries, keys = tiling.queries[part], tiling.keys[part]
        indices = queries, keys, keys, queries
        yield part, [_gathered(*each).to(tiling.mask.dtype) for each in zip(maps, indices, strict=False)]


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Attention within tiles: ``(tiles, Q, C), (tiles, K, C), (tiles, K, C)`` -> ``(tiles, Q, C)``."""
    query, key, value = (each.unflatten(2, (heads, -1)).transpose(1, 2) for each in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def autocast_disabled(device: torch.device) -> AbstractContextManager:
    """Otherwise ``scaled_dot_product_attention`` would round float32 maps."""
    return torch.autocast(device.type, enabled=False) if device.type in ('cpu', 'cuda') else nullcontext()


def _untiled(chunks: list[Tensor], like: Tensor, tiling: _Tiling) -> Tensor:
    """Tiles of queries ``(B * tiles, Q, C)``, by chunk, as a map of the shape and dtype of ``like``."""
    batch, heads, _, height, width = like.shape
    chunks = [chunk.reshape(batch, -1, chunk.shape[2]) for chunk in chunks]
    tiles = chunks[0] if len(chunks) == 1 else torch.cat(chunks, 1)
    maps = tiles.index_select(1, tiling.places).to(like.dtype).view(batch, height, width, heads, -1)
    return maps.permute(0, 3, 4, 1, 2)


# -- gradients of keys and values ------------------------------------------------------------------


class _Overlap(NamedTuple):
    """How the tiles' keys overlap along one axis."""

    keys: int  # per tile
    strides: tuple[int, int, int]  # from residue to residue, tile to tile, key to key, in pixels
    phases: int  # tiles this many apart have no keys in common
    padding: int  # pixels before the map that tiles contain
    padded_length: int
    borders: list[tuple[Tensor, Tensor]]  # padded positions outside the map, and those that they reflect, all distinct


def _overlap(queries: int, length: int, tile: int, window: Window, device: torch.device) -> _Overlap:
    kernel_size, stride, dilation = window
    residues, step = residues_and_step(stride, dilation)
    tiles = ceil_div(ceil_div(queries, residues), tile)
    keys, padding, distance = (tile - 1) * step + kernel_size, kernel_size // 2 * dilation, tile * step * dilation
    last = (residues - 1) * stride + (tiles - 1) * distance + (keys - 1) * dilation
    padded_length = max(last + 1, padding + length)
    borders = [
        torch.cat([torch.arange(*span, device=device) for span in spans])
        for spans in _border_spans(padding, length, padded_length)
    ]
    return _Overlap(
        keys, (stride, distance, dilation), ceil_div(keys, tile * step), padding, padded_length,
        [(border, reflect(border - padding, length) + padding) for border in borders],
    )  # fmt: skip


def _border_spans(padding: int, length: int, padded_length: int) -> list[list[tuple[int, int]]]:
    """Padded positions outside the map, as lists of spans without two positions that reflect the same pixel."""
    before, after = (0, padding), (padding + length, padded_length)
    if padded_length - length < length - 1:
        return [[before, after]]
    period = max(length - 1, 1)  # positions until the reflection turns
    turns = range(padding % period - period, padded_length, period)
    spans = [(max(turn, first), min(turn + period, stop)) for first, stop in (before, after) for turn in turns]
    return [[span] for span in spans if span[0] < span[1]]


@constant
def _overlaps(
    device: torch.device, query_size: Size, key_size: Size, window: Window
) -> tuple[_Overlap, _Overlap, Tensor | None]:
    """Of rows and columns; and ``(tiles, Q)``, whether a query lies in the map, or None if all do."""
    tile = tile_of(device)
    overlaps = (_overlap(*sizes, window, device) for sizes in zip(query_size, key_size, tile, strict=True))
    queries, _, places = indices_of(torch.empty(0, device=device), query_size, key_size, window, tile)
    is_query = None
    if places.numel() < queries.numel():
        is_query = torch.zeros(queries.numel(), dtype=torch.bool, device=device)
        is_query = is_query.index_fill_(0, places, True).view(queries.shape)
    return *overlaps, is_query


def _add_tiles(padded: Tensor, tiles: Tensor, part: tuple[slice, ...], rows: _Overlap, columns: _Overlap) -> None:
    """Add keys of tiles ``(B * tiles, K, C)`` to a padded map ``(B, H, W, C)``, all that do not overlap at once."""
    batch, down, right, channel = padded.stride()
    first, sizes = [each.start for each in part], [each.stop - each.start for each in part]
    tiles = tiles.reshape(len(padded), *sizes, rows.keys, columns.keys, padded.shape[3])
    vertical, horizontal = ([down * each for each in rows.strides], [right * each for each in columns.strides])
    steps = vertical[0], vertical[1], horizontal[0], horizontal[1]
    strides = (
        batch, steps[0], steps[1] * rows.phases, steps[2], steps[3] * columns.phases,
        vertical[2], horizontal[2], channel,
    )  # fmt: skip
    for y, x in product(range(min(rows.phases, sizes[1])), range(min(columns.phases, sizes[3]))):
        apart = tiles[:, :, y :: rows.phases, :, x :: columns.phases]
        start = sum(a * b for a, b in zip((first[0], first[1] + y, first[2], first[3] + x), steps, strict=True))
        padded.as_strided(apart.shape, strides, padded.storage_offset() + start).add_(apart)


def _unpadded(padded: Tensor, like: Tensor, rows: _Overlap, columns: _Overlap) -> Iterator[Tensor]:
    """Padded maps ``(n, B, H, W, C)`` as n maps of the shape and dtype of ``like``; borders go where they reflect."""
    for axis, overlap in ((3, columns), (2, rows)):
        for border, source in overlap.borders:
            padded.index_add_(axis, source, padded.index_select(axis, border))
    _, heads, _, height, width = like.shape
    maps = padded[:, :, rows.padding : rows.padding + height, columns.padding : columns.padding + width]
    return maps.to(like.dtype).contiguous().unflatten(4, (heads, -1)).permute(0, 1, 4, 5, 2, 3).unbind()
