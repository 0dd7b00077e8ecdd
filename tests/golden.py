"""Reference vectors: float64 results of the authors' published code (tests/data).

No weights are stored. Every tensor, weights and inputs alike, is generated from its name.
"""

import json
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

FOLDER = Path(__file__).parent / 'data'
_CASES = json.loads((FOLDER / 'cases.json').read_text())
OPERATORS = [name for name, case in _CASES.items() if case['kind'] == 'op']


class Case(NamedTuple):
    arguments: dict
    x: torch.Tensor
    state_dict: dict[str, torch.Tensor]  # with the published names
    results: dict[str, torch.Tensor]


def load(name: str) -> Case:
    """A case, whose inputs and weights the caller may change."""
    case = _load(name)
    return case._replace(x=case.x.clone(), state_dict={key: value.clone() for key, value in case.state_dict.items()})


@lru_cache
def _load(name: str) -> Case:
    arguments = _CASES[name]
    state_dict = {key: torch.from_numpy(_value(key, shape)) for key, shape in arguments['state_dict'].items()}
    with np.load(FOLDER / f'{name}.npz') as file:
        results = {key: torch.from_numpy(file[key]) for key in file}
    return Case(arguments, draw(f'{name}.x', arguments['x']), state_dict, results)


def draw(name: str, shape) -> torch.Tensor:
    """Standard normal numbers, seeded by a name."""
    return torch.from_numpy(_draw(name, shape))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference, relative to the largest absolute expected value."""
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def _draw(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def _value(name, shape):
    normal, leaf = _draw(name, shape), name.split('.')[-1]
    if leaf == 'running_var':
        return 1 + 0.1 * abs(normal)
    if leaf == 'weight' and len(shape) == 1:
        return 1 + 0.1 * normal
    if leaf in ('rate1', 'rate2'):
        return 0.5 + 0.1 * normal
    if leaf == 'relative_position_bias_table':
        return 0.5 * normal
    if leaf in ('running_mean', 'bias'):
        return 0.1 * normal
    return normal / np.sqrt(np.prod(shape[1:]))
