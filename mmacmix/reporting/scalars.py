"""The scalars that a training run logged."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError

_NO_SCORE = ('time', 'data_time', 'step')


class Scalars(NamedTuple):
    """Lines of a log, in order; each has its training ``step``."""

    training: list[dict]  # losses, learning rates, seconds, memory
    evaluations: list[dict]  # scores
    path_weights: list[dict]  # see PathWeightsHook

    @property
    def scores(self) -> list[str]:
        """Names of what evaluations tell, in the order of their first appearance."""
        return list(dict.fromkeys(name for line in self.evaluations for name in line if name not in _NO_SCORE))


def read_scalars(folder: Path) -> Scalars:
    """Read all training starts in a work directory as one: where a later one began anew, what was there is dropped.

    Raises:
        UserError: There are none.
    """
    logs = sorted(folder.glob('*/vis_data/scalars.json'))
    whole = Scalars([], [], [])
    for log in logs:
        start = _read(log)
        if not start.training:  # a test
            continue
        first = start.training[0]['step']
        for lines, later in zip(whole, start, strict=True):
            lines[:] = [line for line in lines if line['step'] < first] + later
    if not whole.training:
        raise UserError(f'{folder} holds no training run: there are no scalars inside')
    return whole


def _read(log: Path) -> Scalars:
    start = Scalars([], [], [])
    step = 0
    for line in _lines(log):
        if any(name.startswith('path_weights/') for name in line):
            step = line['step']  # also of the last iteration, which training may not log
            start.path_weights.append(line)
        elif 'lr' in line:
            step = line['step']
            start.training.append(line)
        else:
            # Its own step is the iteration, or where MMEngine counts evaluations by epoch, the number of epochs.
            start.evaluations.append(line | dict(step=max(step, line['step'])))
    return start


def _lines(log: Path) -> Iterator[dict]:
    """The entries of a log; the last one may be cut off."""
    lines = log.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            if number < len(lines):
                raise UserError(f'{log} cannot be read, line {number}: {error}') from error
