"""Charts, one PNG each."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .path_weights import PathWeights

_PATHS = (('attention_rate', 'attention', 'tab:orange'), ('conv_rate', 'convolution', 'tab:blue'))


@contextmanager
def saved_axes(
    path: str | Path, size: tuple[float, float], rows: int = 1, columns: int = 1, **options: str | bool
) -> Iterator[np.ndarray]:
    """Yield the axes of a new figure, ``(rows, columns)``, and write the figure to a PNG in the end.

    The figure has a size in inches and is unknown to ``matplotlib.pyplot``, whose global state stays as it is.
    """
    figure = Figure(size, layout='constrained')
    yield figure.subplots(rows, columns, squeeze=False, **options)
    figure.savefig(path, dpi=120, bbox_inches='tight')


def draw_lines(series: dict[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, path: Path) -> Path:
    """Draw named lines, given by their x and y coordinates, over axes with the labels ``x`` and ``y``."""
    with saved_axes(path, (7, 3.6)) as ((axes,),):
        for name, (xs, ys) in series.items():
            axes.plot(xs, ys, marker='.', label=name)
        axes.set(xlabel=x, ylabel=y)
        if all(value >= 0 for _, ys in series.values() for value in ys):
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if len(series) > 1:
            axes.legend(fontsize=8)
    return path


def draw_bars(values: dict[str, float], label: str, path: Path) -> Path:
    """Draw a horizontal bar and a number for each name, the largest at the top."""
    names = sorted(values, key=values.__getitem__)
    with saved_axes(path, (7, 0.28 * len(names) + 1)) as ((axes,),):
        bars = axes.barh(names, [values[name] for name in names], color='tab:blue', alpha=0.7)
        axes.bar_label(bars, fmt='%.3g', padding=3)
        axes.margins(x=0.12, y=0.5 / len(names))
        axes.set_xlabel(label)
    return path


def draw_path_weights(layers: dict[str, PathWeights], path: Path) -> Path:
    """Draw the layers' rates by depth if any has some, and both paths' shares in the output if all have them."""
    shares = [weights.attention_share for weights in layers.values()]
    has_rates = any(weights.attention_rate is not None for weights in layers.values())
    has_shares = None not in shares
    panels = has_rates + has_shares
    indices = range(len(layers))
    with saved_axes(path, (max(6, 0.4 * len(layers)), 3.4 * panels), panels, sharex=True) as grid:
        first, last = grid[0, 0], grid[-1, 0]
        if has_rates:
            for (rate, label, color), offset in zip(_PATHS, (-0.2, 0.2), strict=True):
                heights = [getattr(weights, rate) or 0 for weights in layers.values()]
                first.bar([index + offset for index in indices], heights, 0.4, label=label, color=color)
            first.set_ylabel('rate')
            first.axhline(0, color='black', linewidth=0.5)
        if has_shares:
            (_, attention, orange), (_, convolution, blue) = _PATHS
            last.bar(indices, shares, label=attention, color=orange)
            last.bar(indices, [1 - share for share in shares], bottom=shares, label=convolution, color=blue)
            last.set_ylabel("share of the outputs' norms")
        first.legend(fontsize=8, ncols=2, loc='lower center', bbox_to_anchor=(0.5, 1))
        for axes in grid.flat:
            axes.set_xticks(indices, _shortened(layers), rotation=90, fontsize=8)
            axes.margins(x=0.02)
        last.set_xlabel('layers, from input to output')
    return path


def draw_path_weights_over_time(steps: Sequence[int], layers: dict[str, Sequence[PathWeights]], path: Path) -> Path:
    """Draw the attention's shares in the output over the training iterations, and the rates if all layers have them.

    The colour of a line shows the depth of the layer.
    """
    titles = {rate: f'rate of {label}' for rate, label, _ in _PATHS}
    titles['attention_share'] = "attention's share of the output norms"
    logged = [weights for line in layers.values() for weights in line]
    fields = [field for field in titles if all(getattr(weights, field) is not None for weights in logged)]
    colors = matplotlib.colormaps['viridis'](np.linspace(0, 1, len(layers)))
    with saved_axes(path, (4.6 * len(fields), 3.8), columns=len(fields)) as (row,):
        for axes, field in zip(row, fields, strict=True):
            for name, line, color in zip(_shortened(layers), layers.values(), colors, strict=True):
                values = [getattr(weights, field) for weights in line]
                axes.plot(steps, values, marker='.', color=color, label=name)
            axes.set_title(titles[field], fontsize=10)
            axes.set_xlabel('training iterations')
            axes.grid(alpha=0.3)
        row[-1].legend(fontsize=6, loc='center left', bbox_to_anchor=(1.01, 0.5), title='layer', title_fontsize=7)
    return path


def _shortened(names: Iterable[str]) -> list[str]:
    """Names without the prefix ``backbone`` and without trailing words, except numbers, that all of them share."""
    words = [name.removeprefix('backbone.').split('.') for name in names]
    while min(map(len, words)) > 1 and len({line[-1] for line in words}) == 1 and not words[0][-1].isdigit():
        words = [line[:-1] for line in words]
    return ['.'.join(line) for line in words]
