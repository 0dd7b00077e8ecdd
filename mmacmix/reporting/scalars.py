"""The scalars that a training run logged."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError

_NO_SCORES = ('time', 'data_time', 'step')


class Scalars(NamedTuple):
    """Lines of a log, in order; each has its training iteration as ``step``."""

    training: list[dict]  # losses, learning rates, seconds, memory
    evaluations: list[dict]  # scores
    path_weights: list[dict]  # see PathWeightsHook

    @property
    def scores(self) -> list[str]:
        """Names of all scores, in the order of their first appearance."""
        return list(dict.fromkeys(name for line in self.evaluations for name in line if name not in _NO_SCORES))


def steps_and_values(lines: Sequence[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one scalar, from the lines that have it."""
    lines = [line for line in lines if name in line]
    return [line['step'] for line in lines], [line[name] for line in lines]


def read_scalars(folder: Path) -> Scalars:
    """Read the logs of all starts of a training as one; a resumed training replaces iterations that it repeats.

    Raises:
        UserError: There are none, or one cannot be read.
    """
    merged = Scalars([], [], [])
    for log in sorted(folder.glob('*/vis_data/scalars.json')):
        scalars = _read(log)
        if scalars.training:  # not a test
            first = scalars.training[0]['step']
            for lines, later in zip(merged, scalars, strict=True):
                lines[:] = [line for line in lines if line['step'] < first] + later
    if not merged.training:
        raise UserError(f'{folder} holds no training run: none of */vis_data/scalars.json in it has training scalars')
    return merged


def _read(log: Path) -> Scalars:
    scalars = Scalars([], [], [])
    step = 0
    texts = log.read_text().splitlines()
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            if number == len(texts):  # cut off
                break
            raise UserError(f'{log} cannot be read, line {number}: {error}') from error
        if any(name.startswith('path_weights/') for name in line):
            step = line['step']  # includes the last iteration, which the training's logger may skip
            scalars.path_weights.append(line)
        elif 'lr' in line:
            step = line['step']
            scalars.training.append(line)
        else:
            # MMEngine logs the iteration as step, or the epoch if evaluations are counted by epoch.
            scalars.evaluations.append(line | dict(step=max(step, line['step'])))
    return scalars
