"""Attention maps of a pixel, drawn over the image."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor, nn

from ..layers import MixingLayer
from .charts import saved_axes
from .observation import observed_layers

_COLUMNS = 8  # heads per row
_SIDE = 1000  # maximum of the image's longer side in pixels; its copies in the figure are small

Box = tuple[float, float, float, float]  # left, right, top, bottom


@contextmanager
def observed_attention(model: nn.Module, relative_position: tuple[float, float]) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that the network's forward pass fills: layer to attention map of one pixel, on the CPU.

    Maps and ``relative_position`` are those of ``mmacmix.layers.MixingLayer.attention_map``.
    """
    maps: dict[str, Tensor] = {}

    def observe(name: str, layer: MixingLayer, x: Tensor) -> None:
        if layer.has_attention:
            maps[name] = layer.attention_map(x, relative_position).float().cpu()

    with observed_layers(model, observe):
        yield maps


def last_of_each_stage(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The map of the last layer of each stage; names of layers of one stage differ only in their last number."""
    last = {re.sub(r'\.\d+(\.[^\d.][^.]*)*$', '', name): name for name in maps}
    return {name: maps[name] for name in last.values()}


def draw_attention(
    image: np.ndarray,
    maps: dict[str, Tensor],
    pixel: tuple[float, float],
    covered: tuple[float, float],
    path: str | Path,
) -> None:
    """Draw the attention of each head over the image, cropped around the pixels with nonzero weights.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        maps: Layer to ``(heads, h, w)``.
        pixel: x and y of the pixel that attends.
        covered: Width and height of the area that the maps cover, in pixels of the image; padding included.
        path: The PNG to write.
    """
    rows = [
        (name, weights, range(first, min(first + _COLUMNS, len(weights))))
        for name, weights in maps.items()
        for first in range(0, len(weights), _COLUMNS)
    ]
    columns = 1 + max(len(heads) for _, _, heads in rows)
    height, width = image.shape[:2]
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((_SIDE, _SIDE))

    def show(axes: Axes) -> None:
        axes.imshow(thumbnail, extent=(0, width, height, 0))
        axes.plot(pixel[0] + 0.5, pixel[1] + 0.5, '+', color='cyan', markersize=6, clip_on=False)

    with saved_axes(path, (1.9 * columns, 2 * len(rows)), len(rows), columns) as grid:
        for axes in grid.flat:
            axes.set_axis_off()
        for (overview, *cells), (name, weights, heads) in zip(grid, rows, strict=True):
            box = _bounding_box(weights, covered)
            left, right, top, bottom = view = _enlarged(box, width, height)
            show(overview)
            overview.add_patch(_rectangle(view, 'cyan'))
            overview.set_title(name, fontsize=6, loc='left')
            for axes, head in zip(cells, heads, strict=False):
                show(axes)
                largest = weights[head].max()
                relative = (weights[head].clamp(min=0) / largest.clamp(min=1e-12)).numpy()
                extent = (0, covered[0], covered[1], 0)
                axes.imshow(
                    relative, cmap='inferno', extent=extent, alpha=0.85 * relative**0.5, interpolation='nearest'
                )
                axes.add_patch(_rectangle(box, 'white', linewidth=0.6))
                axes.set(xlim=(left, right), ylim=(bottom, top))
                axes.set_title(f'head {head + 1}: up to {largest:.2g}', fontsize=6)


def _rectangle(box: Box, color: str, **style: float) -> Rectangle:
    left, right, top, bottom = box
    return Rectangle((left, top), right - left, bottom - top, fill=False, color=color, **style)


def _bounding_box(weights: Tensor, covered: tuple[float, float]) -> Box:
    """The box around all nonzero weights, in pixels of the image; the whole map if all weights are zero."""
    nonzero = (weights != 0).any(0)
    ys, xs = (nonzero if nonzero.any() else ~nonzero).nonzero().T.numpy()
    dx, dy = covered[0] / weights.shape[2], covered[1] / weights.shape[1]
    return xs.min() * dx, (xs.max() + 1) * dx, ys.min() * dy, (ys.max() + 1) * dy


def _enlarged(box: Box, width: int, height: int) -> Box:
    """The box with margins of half its size, clipped to the image."""
    left, right, top, bottom = box
    dx, dy = (right - left) / 2, (bottom - top) / 2
    return max(0, left - dx), min(width, right + dx), max(0, top - dy), min(height, bottom + dy)
