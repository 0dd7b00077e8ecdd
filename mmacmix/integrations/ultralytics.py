"""ACmix in the model files of Ultralytics: after ``register()``, a line may be ``[-1, 1, ACmix, [ch, f]]``.

Ultralytics has no interface for modules of others. Its parser looks up the names of modules among its own globals, and
replaces an argument that is the name of one of its local variables with the value: ``ch`` holds the channels of all
layers so far, and ``f`` is the index of the layer whose output is the input.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..necks import NeckLayer
from ..versions import check_library

check_library('ultralytics')

from ultralytics.nn import tasks

__all__ = ['ACmix', 'add_acmix', 'register']

_P3 = dict(num_heads=2, attention_kernel_size=5)


class ACmix(NeckLayer):
    """ACmix as a line of a model file; its output has the shape of its input.

    Args:
        channels: Channels of all layers so far: ``ch`` in the file.
        source: Index of the layer whose output is the input: ``f`` in the file.
        options: Arguments of ``mmacmix.layers.ACmix``, and ``residual`` as in ``NeckLayer``. Default: none.

    Raises:
        ValueError: An argument is out of range, or does not fit the others.
    """

    def __init__(self, channels: Sequence[int], source: int, options: dict = {}) -> None:
        layer = dict(type='ACmix', **options)
        super().__init__(channels[source], residual=layer.pop('residual', True), layer=layer)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register()  # Ultralytics trains a model from a checkpoint by building it again


def register() -> None:
    """Make ``ACmix`` known to Ultralytics, for this process; loading a checkpoint that has the layer does so, too."""
    tasks.ACmix = ACmix


def add_acmix(model: str, file: str | Path, placement: str = 'head', options: dict = {}) -> None:
    """Write the model file of a network with ACmix, and register ACmix.

    Args:
        model: Model file of a network whose head reads several maps, with or without its scale: ``yolo11.yaml``,
            ``yolo11n.yaml``.
        file: The file to write. Its name must have the scale if ``model`` has: ``yolo11n-acmix.yaml``.
        placement: ``'head'`` for ACmix on each map between the neck and the head; ``'p3'`` for a 1x1 convolution and
            ACmix instead of the block from which the head's largest map comes. Default: ``'head'``.
        options: See ``ACmix``. Default: those of ``mmacmix.layers.ACmix``; for ``'p3'``, 2 heads and a 5x5 window.

    Raises:
        UserError: ``placement`` is unknown, the head has no list of maps, or the name of ``file`` lacks the scale of
            ``model``.
    """
    if placement not in ('head', 'p3'):
        raise UserError(f"placement must be 'head' or 'p3', got {placement!r}")
    network = tasks.yaml_model_load(model)
    scale, _ = network.pop('scale'), network.pop('yaml_file')  # not of the file itself
    backbone, lines = len(network['backbone']), network['backbone'] + network['head']
    if not isinstance(lines[-1][0], list):
        raise UserError(f'{model}: ACmix is placed before a head that reads several maps, not {lines[-1]}')
    if 'scales' in network and scale and tasks.guess_model_scale(file) != scale:
        raise UserError(f'the name of the file must have the scale {scale!r}, as in {model}, got {str(file)!r}')
    levels = [_absolute(len(lines) - 1, level) for level in lines[-1][0]]
    if placement == 'head':
        lines[-1:] = [
            *([level, 1, 'ACmix', _arguments(options)] for level in levels),
            [[*range(len(lines) - 1, len(lines) - 1 + len(levels))], *lines[-1][1:]],
        ]
    else:
        lines = _replace(lines, levels[0], options or _P3)
    network |= dict(backbone=lines[:backbone], head=lines[backbone:])
    with open(file, 'w') as out:
        yaml.dump(network, out, _Dumper, sort_keys=False, width=float('inf'))
    register()


class _Dumper(yaml.SafeDumper):
    """Writes each list in one line, except lists of lists."""

    def ignore_aliases(self, data: Any) -> bool:
        return True  # repeated options are written out


_Dumper.add_representer(
    list,
    lambda dumper, items: dumper.represent_sequence(
        'tag:yaml.org,2002:seq', items, flow_style=not all(isinstance(item, list) for item in items)
    ),
)


def _replace(lines: list[list], index: int, options: dict) -> list[list]:
    """Put a 1x1 convolution and ACmix in the place of a block; layers after it are renumbered."""

    def moved(line: int, source: int | list[int]) -> int | list[int]:
        if isinstance(source, list):
            return [moved(line, each) for each in source]
        if source == -1:
            return -1
        source = _absolute(line, source)
        return source + (source >= index)

    moved_lines = [[moved(line, source), *rest] for line, (source, *rest) in enumerate(lines)]
    (source, _, _, (width, *_)) = lines[index]
    moved_lines[index : index + 1] = [[source, 1, 'Conv', [width, 1, 1]], [-1, 1, 'ACmix', _arguments(options)]]
    return moved_lines


def _absolute(line: int, source: int) -> int:
    """The number of the layer that a line reads, which may be given relative to the line."""
    return source if source >= 0 else line + source


def _arguments(options: dict) -> list:
    return ['ch', 'f', *([options] if options else [])]
