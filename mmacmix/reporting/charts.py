"""The charts of a report. Each is written as one PNG."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .path_weights import PathWeights

#: What a chart calls the two paths, and their colours.
_PATHS = (('attention_rate', 'attention', 'tab:orange'), ('conv_rate', 'convolution', 'tab:blue'))


def draw_lines(
    series: dict[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, path: str | Path
) -> None:
    """Lines over one axis.

    Args:
        series: Name to positions and values.
        x_label: What the positions are.
        y_label: What the values are.
        path: The PNG to write.
    """
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for name, (xs, ys) in series.items():
        axes.plot(xs, ys, marker='o' if len(xs) < 30 else None, markersize=4, label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if all(y >= 0 for _, ys in series.values() for y in ys):
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(series) > 1:
        axes.legend(fontsize=8)
    _save(figure, path)


def draw_bars(values: dict[str, float], label: str, path: str | Path) -> None:
    """A horizontal bar and a number for each name, the largest on top."""
    names = sorted(values, key=values.__getitem__)
    figure, axes = plt.subplots(figsize=(7, 0.28 * len(names) + 1))
    bars = axes.barh(names, [values[name] for name in names], color='tab:blue', alpha=0.7)
    axes.bar_label(bars, fmt='%.3g', padding=3)
    axes.margins(x=0.12, y=0.5 / len(names))
    axes.set_xlabel(label)
    _save(figure, path)


def draw_path_weights(layers: dict[str, PathWeights], path: str | Path) -> None:
    """The two rates of each layer by depth, and the paths' shares in the output, as far as there are such.

    Args:
        layers: Layer to its weights, in the network's order.
        path: The PNG to write.
    """
    shares = [weights.attention_share for weights in layers.values()]
    has_rates = any(weights.attention_rate is not None for weights in layers.values())
    has_shares = None not in shares
    panels = has_rates + has_shares
    size = max(6, 0.4 * len(layers)), 3.4 * panels
    figure, axes = plt.subplots(panels, figsize=size, squeeze=False, sharex=True, layout='constrained')
    places, names = range(len(layers)), _short(list(layers))
    for index, (field, label, color) in enumerate(_PATHS if has_rates else ()):
        rates = [getattr(weights, field) or 0 for weights in layers.values()]
        axes[0, 0].bar([place + 0.4 * (index - 0.5) for place in places], rates, 0.4, label=label, color=color)
        axes[0, 0].set_ylabel('rate')
        axes[0, 0].axhline(0, color='black', linewidth=0.5)
    if has_shares:
        bars = (0, shares, _PATHS[0]), (shares, [1 - share for share in shares], _PATHS[1])
        for bottom, heights, (_, label, color) in bars:
            axes[-1, 0].bar(places, heights, bottom=bottom, label=label, color=color)
        axes[-1, 0].set_ylabel("share of the outputs' norms")
    axes[0, 0].legend(fontsize=8, ncols=2, loc='lower center', bbox_to_anchor=(0.5, 1))
    for each in axes[:, 0]:
        each.set_xticks(places, names, rotation=90, fontsize=8)
        each.margins(x=0.02)
    axes[-1, 0].set_xlabel('layers, from input to output')
    _save(figure, path)


def draw_path_weights_over_time(
    steps: Sequence[int], layers: dict[str, Sequence[PathWeights]], path: str | Path
) -> None:
    """The rates, if all layers have some, and the attention's share of the output over training; colours show depth.

    Args:
        steps: Training iterations.
        layers: Layer to its weights at these steps, in the network's order.
        path: The PNG to write.
    """
    fields = [(field, f'rate of {label}') for field, label, _ in _PATHS]
    fields.append(('attention_share', "attention's share of the output norms"))
    logged = [weights for line in layers.values() for weights in line]
    fields = [each for each in fields if all(getattr(weights, each[0]) is not None for weights in logged)]
    figure, all_axes = plt.subplots(1, len(fields), figsize=(4.6 * len(fields), 3.8), squeeze=False)
    colors = plt.get_cmap('viridis')([place / max(1, len(layers) - 1) for place in range(len(layers))])
    for axes, (field, label) in zip(all_axes[0], fields, strict=True):
        for name, line, color in zip(_short(list(layers)), layers.values(), colors, strict=True):
            marker = 'o' if len(steps) < 30 else None
            values = [getattr(weights, field) for weights in line]
            axes.plot(steps, values, marker=marker, markersize=4, color=color, label=name)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel('training iterations')
        axes.grid(alpha=0.3)
    _legend_of_depth(all_axes[0, -1])
    _save(figure, path)


def _legend_of_depth(axes: Axes) -> None:
    axes.legend(fontsize=6, loc='center left', bbox_to_anchor=(1.01, 0.5), title='layer', title_fontsize=7)


def _short(names: Sequence[str]) -> list[str]:
    """Names without ``backbone`` and without the words, numbers aside, that all of them end with."""
    words = [name.removeprefix('backbone.').split('.') for name in names]
    while min(map(len, words)) > 1 and len({line[-1] for line in words}) == 1 and not words[0][-1].isdigit():
        words = [line[:-1] for line in words]
    return ['.'.join(line) for line in words]


def _save(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches='tight')
    plt.close(figure)
