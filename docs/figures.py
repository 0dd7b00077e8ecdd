"""Draw the figures of the pages "Four ways to mix convolution and attention" and "Choosing a backend".

python docs/figures.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from mmacmix.ops import reflect, shift_kernels, window_positions

IMAGES = Path(__file__).with_name('images')
SHARED, ATTENTION, CONVOLUTION, PLAIN = '#dde7dd', '#fbe0c8', '#d3e3f3', '#f1f1f1'


def main() -> None:
    paths()
    window()
    shifts()
    second_path()
    xvolution()
    lesa()
    tiles()


def paths() -> None:
    """Draw the operator of ACmix."""
    axes = canvas(9.5, 3.6, 19, 7)
    box(axes, 0, 2.8, 1.6, 1.4, 'input\n$x$', PLAIN)
    for y, name in ((5, 'q'), (2.9, 'k'), (0.8, 'v')):
        box(axes, 3.2, y, 2, 1.2, f'1x1 conv\n${name}$', SHARED)
        arrow(axes, (1.6, 3.5), (3.2, y + 0.6))
        arrow(axes, (5.2, y + 0.6), (7.4, 5.4))
        arrow(axes, (5.2, y + 0.6), (7.4, 1.5))
    box(axes, 7.4, 4.7, 5.6, 1.4, '7x7 windows:\nsoftmax$(q_i \\cdot (k_j - p_j) / \\sqrt{d}\\,)\\; v_j$', ATTENTION)
    box(axes, 7.4, 0.8, 2.5, 1.4, 'fully\nconnected', CONVOLUTION)
    box(axes, 10.5, 0.8, 2.5, 1.4, 'shift\nand sum', CONVOLUTION)
    arrow(axes, (9.9, 1.5), (10.5, 1.5))
    box(axes, 15.2, 2.9, 1.2, 1.2, '+', PLAIN)
    arrow(axes, (13, 5.4), (15.2, 3.8), r'$\alpha$')
    arrow(axes, (13, 1.5), (15.2, 3.2), r'$\beta$')
    box(axes, 17.2, 2.8, 1.7, 1.4, 'output', PLAIN)
    arrow(axes, (16.4, 3.5), (17.2, 3.5))
    for x, text in ((4.2, 'stage I, shared'), (10.2, 'stage II, two paths')):
        axes.text(x, 6.75, text, ha='center', fontsize=10, style='italic')
    save(axes.figure, 'operator_paths.png')


def second_path() -> None:
    """Draw ACmix in a transformer: a second path in addition to its own attention."""
    axes = canvas(9.5, 2.8, 19, 5.6)
    box(axes, 0, 2.1, 1.6, 1.4, 'input\n$x$', PLAIN)
    box(axes, 3, 2, 2.6, 1.6, 'transformer:\n$q$, $k$, $v$', SHARED)
    arrow(axes, (1.6, 2.8), (3, 2.8))
    box(axes, 7.4, 3.8, 4, 1.4, "the transformer's\nown attention", ATTENTION)
    box(axes, 12.2, 3.8, 1.6, 1.4, 'proj', ATTENTION)
    box(axes, 7.4, 0.4, 2.8, 1.4, 'fully\nconnected', CONVOLUTION)
    box(axes, 11, 0.4, 2.8, 1.4, 'shift\nand sum', CONVOLUTION)
    arrow(axes, (5.6, 2.8), (7.4, 4.5))
    arrow(axes, (5.6, 2.8), (7.4, 1.1))
    arrow(axes, (11.4, 4.5), (12.2, 4.5))
    arrow(axes, (10.2, 1.1), (11, 1.1))
    box(axes, 15.4, 2.2, 1.2, 1.2, '+', PLAIN)
    arrow(axes, (13.8, 4.5), (15.4, 3.1), r'$\alpha$')
    arrow(axes, (13.8, 1.1), (15.4, 2.5), r'$\beta$')
    box(axes, 17.3, 2.1, 1.7, 1.4, 'output', PLAIN)
    arrow(axes, (16.6, 2.8), (17.3, 2.8))
    save(axes.figure, 'operator_second_path.png')


def xvolution() -> None:
    """Draw the two branches of X-volution, and the kernel they are merged into."""
    axes = canvas(9.5, 4.2, 19, 8.4)
    box(axes, 0, 4.6, 1.6, 1.4, 'input\n$x$', PLAIN)
    box(axes, 3, 6.4, 2.6, 1.4, 'shift to\n8 neighbours', ATTENTION)
    box(axes, 7.2, 6.5, 1.2, 1.2, r'$\odot$', ATTENTION)
    box(axes, 9.8, 6.4, 2.6, 1.4, '1x1 conv\n$W^A$', ATTENTION)
    box(axes, 3, 2.8, 9.4, 1.4, '3x3 conv  $W^C$', CONVOLUTION)
    arrow(axes, (1.6, 5.3), (3, 7.1))
    arrow(axes, (1.6, 5.3), (7.2, 6.7))
    arrow(axes, (1.6, 5.3), (3, 3.5))
    arrow(axes, (5.6, 7.1), (7.2, 7.1))
    arrow(axes, (8.4, 7.1), (9.8, 7.1))
    for y in (6.4, 2.8):
        box(axes, 13.1, y, 1.2, 1.4, 'BN', PLAIN)
        arrow(axes, (12.4, y + 0.7), (13.1, y + 0.7))
        arrow(axes, (14.3, y + 0.7), (15.6, 5.6 if y > 5 else 5))
    box(axes, 15.6, 4.7, 1.2, 1.2, '+', PLAIN)
    box(axes, 17.3, 4.6, 1.7, 1.4, 'output', PLAIN)
    arrow(axes, (16.8, 5.3), (17.3, 5.3))
    axes.plot([0, 19], [2.1, 2.1], '--', color='#999999', lw=1)
    axes.text(0, 1.55, 'after fusing', fontsize=10, style='italic')
    box(axes, 0, 0, 1.6, 1.3, 'input', PLAIN)
    box(axes, 3, 0, 11.3, 1.3, 'one kernel:  $w^A_i(x) + w^C_i$,   $w^A_i(x) = W^A_i\\,diag(x(p))$', SHARED)
    box(axes, 17.3, 0, 1.7, 1.3, 'output', PLAIN)
    arrow(axes, (1.6, 0.65), (3, 0.65))
    arrow(axes, (14.3, 0.65), (17.3, 0.65))
    save(axes.figure, 'operator_xvolution.png')


def lesa() -> None:
    """Draw the two terms of LESA and their gate."""
    axes = canvas(9.5, 3.4, 19, 6.8)
    box(axes, 0, 2.7, 1.6, 1.4, 'input\n$x$', PLAIN)
    box(axes, 3, 5.2, 6.4, 1.4, '3x3 conv with 8 groups,\n1x1 conv, BN', CONVOLUTION)
    box(axes, 3, 0.2, 2.7, 1.4, '1x1 conv, BN\n$q$, $k$, $v$', SHARED)
    box(axes, 6.4, 0.2, 3, 1.4, 'attention to\nall pixels, BN', ATTENTION)
    arrow(axes, (1.6, 3.4), (3, 5.9))
    arrow(axes, (1.6, 3.4), (3, 0.9))
    arrow(axes, (5.7, 0.9), (6.4, 0.9))
    box(axes, 10.4, 2.7, 3.2, 1.4, 'gate: two 1x1\nconvs, sigmoid', SHARED)
    axes.text(10.2, 6.1, 'unary', fontsize=10, style='italic')
    axes.text(10.2, 0.35, 'binary', fontsize=10, style='italic')
    arrow(axes, (9.4, 5.9), (11.4, 4.1))
    arrow(axes, (9.4, 0.9), (11.4, 2.7))
    arrow(axes, (9.4, 5.9), (15.4, 4))
    arrow(axes, (9.4, 0.9), (14, 0.9))
    box(axes, 14, 0.3, 1.2, 1.2, r'$\odot$', ATTENTION)
    arrow(axes, (13.6, 3.2), (14.4, 1.5))
    box(axes, 15.4, 2.8, 1.2, 1.2, '+', PLAIN)
    arrow(axes, (14.9, 1.5), (15.8, 2.8))
    box(axes, 17.3, 2.7, 1.7, 1.4, 'output', PLAIN)
    arrow(axes, (16.6, 3.4), (17.3, 3.4))
    save(axes.figure, 'operator_lesa.png')


def canvas(width: float, height: float, right: float, top: float) -> Axes:
    """Empty axes; the size is in inches, the coordinates run from 0 to ``right`` and ``top``."""
    _, axes = plt.subplots(figsize=(width, height))
    axes.set_axis_off()
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
    return axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
    axes.add_patch(FancyBboxPatch((x, y), width, height, 'round,pad=0,rounding_size=0.15', fc=color, ec='#666666'))
    axes.text(x + width / 2, y + height / 2, text, ha='center', va='center', fontsize=10)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = '') -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle='-|>', mutation_scale=11, color='#555555', lw=1))
    axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.25, text, ha='center', fontsize=13)


def window() -> None:
    """Draw a window at the corner of a map and the pixels it sees, as the operator computes them."""
    side, kernel = 8, 7
    positions = window_positions(side, kernel, 1, 1)[1]  # for the query at (1, 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    reach = kernel // 2
    for axes in (left, right):
        axes.set_aspect('equal')
        axes.set_xlim(-reach, side)
        axes.set_ylim(side, -reach)
        axes.set_axis_off()
        for y, x in np.ndindex(side, side):
            axes.add_patch(Rectangle((x, y), 1, 1, fc='white', ec='#bbbbbb'))
    for y in positions.tolist():
        for x in positions.tolist():
            inside = 0 <= y < side and 0 <= x < side
            left.add_patch(Rectangle((x, y), 1, 1, fc=ATTENTION if inside else '#f6f6f6', ec='#bbbbbb'))
            row, column = reflect(torch.tensor([y, x]), side).tolist()
            left.text(x + 0.5, y + 0.5, f'{row},{column}', ha='center', va='center', fontsize=7)
    counts = np.zeros((side, side), int)
    seen = reflect(positions, side)
    np.add.at(counts, tuple(np.meshgrid(seen, seen, indexing='ij')), 1)
    for (y, x), count in np.ndenumerate(counts):
        if count:
            right.add_patch(Rectangle((x, y), 1, 1, fc=ATTENTION, alpha=0.35 + 0.15 * count, ec='#bbbbbb'))
            right.text(x + 0.5, y + 0.5, f'{count}x', ha='center', va='center', fontsize=8)
    for axes, title in ((left, 'row, column seen at each window position'), (right, 'how often each pixel is seen')):
        axes.add_patch(Rectangle((1, 1), 1, 1, fill=False, ec='tab:red', lw=2))
        axes.add_patch(Rectangle((0, 0), side, side, fill=False, ec='black', lw=1.5))
        axes.set_title(title, fontsize=10)
    save(figure, 'operator_window.png')


def shifts() -> None:
    """Draw the initial kernels of the group convolution."""
    figure, all_axes = plt.subplots(1, 9, figsize=(9, 1.3))
    for index, (axes, kernel) in enumerate(zip(all_axes, shift_kernels(1, 3)[0], strict=True)):
        axes.imshow(1 - kernel, cmap='Blues_r', vmin=-0.6, vmax=1)
        axes.set_xticks(np.arange(-0.5, 3), [])
        axes.set_yticks(np.arange(-0.5, 3), [])
        axes.grid(color='#bbbbbb')
        axes.tick_params(length=0)
        axes.set_title(f'feature {index + 1}', fontsize=8)
    save(figure, 'operator_shifts.png')


def tiles() -> None:
    """Draw the tiles of the backend of that name: a map, a tile in memory, and the mask."""
    tile, kernel_size, side = 4, 3, 12
    reach = kernel_size // 2
    keys = tile + 2 * reach
    figure, (on_map, in_memory, mask) = plt.subplots(1, 3, figsize=(13, 4.6), width_ratios=(1, 0.62, 1.1))
    first = np.array((8, 4))  # row and column of the tile's first query

    on_map.set_title(f'map, tiles of {tile}x{tile} queries')
    for y in range(side):
        for x in range(side):
            offset = np.array((y, x)) - first
            color = PLAIN
            if np.all((offset >= -reach) & (offset < tile + reach)):
                color = SHARED
            if np.all((offset >= 0) & (offset < tile)):
                color = ATTENTION
            on_map.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor='white'))
    for position in range(0, side + 1, tile):
        on_map.plot((0, side), (position, position), color='black', linewidth=1)
        on_map.plot((position, position), (0, side), color='black', linewidth=1)
    for x in range(first[1] - reach, first[1] + tile + reach):  # the row below the map is a reflection
        on_map.add_patch(Rectangle((x, side), 1, 1, facecolor=SHARED, edgecolor='white', hatch='///'))
    on_map.annotate(
        'reflected', (first[1] + 2, side + 0.5), (side + 0.4, side + 0.9), arrowprops=dict(arrowstyle='->'), fontsize=9
    )
    on_map.set(xlim=(-0.2, side + 3), ylim=(side + 1.4, -0.2), aspect='equal')

    in_memory.set_title('one gather: the rows of memory')
    for name, left, count, color in (('queries', 0.3, tile**2, ATTENTION), ('keys, values', 2.6, keys**2, SHARED)):
        for row in range(count):
            in_memory.add_patch(Rectangle((left, row * 0.45), 1.5, 0.42, facecolor=color, edgecolor='white'))
        in_memory.text(left + 0.75, -0.7, f'{name}\n{count} x heads * d', ha='center', va='bottom', fontsize=9)
    in_memory.set(xlim=(0, 4.6), ylim=(keys**2 * 0.45 + 0.3, -2.2))

    mask.set_title('mask of every tile: query by key')
    position, key = np.arange(tile), np.arange(keys)
    sees = (key - position[:, None] >= 0) & (key - position[:, None] < kernel_size)
    sees = (sees[:, None, :, None] & sees[None, :, None, :]).reshape(tile**2, keys**2)
    mask.imshow(sees, cmap=ListedColormap((PLAIN, '#d98b4a')), aspect='auto')
    mask.set_xlabel(f'{keys**2} keys, row by row')
    mask.set_ylabel(f'{tile**2} queries, row by row')
    mask.set_xticks(np.arange(0, keys**2 + 1, keys) - 0.5, ['' for _ in range(keys + 1)])
    mask.set_yticks(np.arange(0, tile**2 + 1, tile) - 0.5, ['' for _ in range(tile + 1)])
    mask.grid(color='white')
    for axes in (on_map, in_memory):
        axes.axis('off')
    figure.tight_layout()
    save(figure, 'tiles.png')


def save(figure: Figure, name: str) -> None:
    figure.savefig(IMAGES / name, dpi=120, bbox_inches='tight')
    plt.close(figure)


if __name__ == '__main__':
    main()
