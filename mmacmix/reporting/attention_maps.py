"""Where a pixel looks: attention maps drawn over their image."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import mmcv
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor, nn

from ..layers import MixingLayer

_COLUMNS = 8  # heads in a row
_SIDE = 1000  # pixels of the picture's longer side, at most: there are many small cells


@contextmanager
def observed_attention(model: nn.Module, place: tuple[float, float]) -> Iterator[dict[str, Tensor]]:
    """While it lasts, every layer with attention also tells where one pixel looks.

    Args:
        model: The network.
        place: Of the pixel, from the top and from the left, as shares of height and width of what the network gets.

    Yields:
        A dictionary that is filled as the network runs, layer to its ``mmacmix.layers.MixingLayer.attention_map``.
    """
    maps: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda layer, inputs, name=name: maps.update({name: layer.attention_map(inputs[0], place).float().cpu()})
        )
        for name, module in model.named_modules()
        if isinstance(module, MixingLayer) and module.has_attention
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def last_of_each_stage(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The last map of the layers whose names differ in their last number alone, that of the block."""
    last = {re.sub(r'\.\d+(\.[^\d.][^.]*)*$', '', name): name for name in maps}
    return {name: maps[name] for name in last.values()}


def draw_attention(
    image: np.ndarray,
    maps: dict[str, Tensor],
    pixel: tuple[float, float],
    covered: tuple[float, float],
    path: str | Path,
) -> None:
    """Draw what each head of some layers sees of an image, each cut out around the pixels with any weight.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        maps: Layer to ``(heads, h, w)``.
        pixel: The one that looks: x and y.
        covered: Width and height of what the maps cover, in pixels of the image; with padding more than the image.
        path: The PNG to write.
    """
    rows = [
        (name, weights, range(first, min(first + _COLUMNS, len(weights))))
        for name, weights in maps.items()
        for first in range(0, len(weights), _COLUMNS)
    ]
    columns = max(len(heads) for _, _, heads in rows)
    figure, axes = plt.subplots(len(rows), columns + 1, figsize=(1.9 * (columns + 1), 2 * len(rows)), squeeze=False)
    size = image.shape[1::-1]
    factor = min(1, _SIDE / max(size))
    shown = mmcv.imresize(image, tuple(max(1, round(side * factor)) for side in size))
    for line, (name, weights, heads) in zip(axes, rows, strict=True):
        for cell in line:
            cell.set_axis_off()
        seen = _seen(weights, covered)
        left, right, top, bottom = _with_margin(seen, size)
        _show(line[0], shown, size, pixel)
        line[0].add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, color='cyan'))
        line[0].set_title(name, fontsize=6, loc='left')
        for cell, head in zip(line[1:], heads, strict=False):
            _show(cell, shown, size, pixel)
            share = (weights[head].clamp(min=0) / weights[head].max().clamp(min=1e-12)).numpy()
            extent = (0, covered[0], covered[1], 0)
            cell.imshow(share, cmap='inferno', extent=extent, alpha=0.85 * share**0.5, interpolation='nearest')
            corner, sides = (seen[0], seen[2]), (seen[1] - seen[0], seen[3] - seen[2])
            cell.add_patch(plt.Rectangle(corner, *sides, fill=False, color='white', linewidth=0.6))
            cell.set_xlim(left, right)
            cell.set_ylim(bottom, top)
            cell.set_title(f'head {head + 1}: up to {weights[head].max():.2g}', fontsize=6)
    figure.savefig(path, dpi=130, bbox_inches='tight')
    plt.close(figure)


def _show(axes: Axes, image: np.ndarray, size: tuple[int, int], pixel: tuple[float, float]) -> None:
    axes.imshow(image, extent=(0, size[0], size[1], 0))
    axes.plot(pixel[0] + 0.5, pixel[1] + 0.5, '+', color='cyan', markersize=6, clip_on=False)


def _seen(weights: Tensor, covered: tuple[float, float]) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of what has any weight; of all, where nothing has."""
    bounds = []
    for dim, length in ((1, covered[0]), (0, covered[1])):
        pixel = length / weights.shape[1 + dim]
        there = (weights != 0).any(0).any(1 - dim)
        there = (there if there.any() else ~there).nonzero()[:, 0]
        bounds += [there.min().item() * pixel, (there.max().item() + 1) * pixel]
    return tuple(bounds)


def _with_margin(seen: tuple[float, ...], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Half as much again on each side, within the image."""
    left, right, top, bottom = seen
    across, down = (right - left) / 2, (bottom - top) / 2
    return max(0, left - across), min(size[0], right + across), max(0, top - down), min(size[1], bottom + down)
