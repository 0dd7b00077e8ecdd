"""Checks of the arguments of layers and networks. A message names the argument, what it must be, and what it was."""

import math
from collections.abc import Sequence
from typing import Any

from ..ops.arguments import describe_integer, is_integer


def check_integer_entries(entries: int, minimum: int = 1, **arguments: Any) -> None:
    """Check arguments, by their names, that are sequences of integers of at least ``minimum``, one a stage.

    Raises:
        ValueError: One is not.
    """
    check_entries(entries, **arguments)
    for name, values in arguments.items():
        if not all(is_integer(value) and value >= minimum for value in values):
            raise ValueError(f'{name} must be {describe_integer(minimum)} for each stage, got {values!r}')


def check_entries(entries: int, **arguments: Any) -> None:
    """Check arguments, by their names, that are sequences of an entry a stage; further entries are not read.

    Raises:
        ValueError: One is not.
    """
    for name, values in arguments.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) < entries:
            raise ValueError(f'{name} must have an entry for each of {entries} stages, got {values!r}')


def check_choice(choices: tuple[int | str, ...], **arguments: Any) -> None:
    """Check arguments, by their names, that are one of a few.

    Raises:
        ValueError: One is not.
    """
    for name, value in arguments.items():
        if not isinstance(value, int | str) or value not in choices:
            raise ValueError(f'{name} must be one of {choices}, got {value!r}')


def check_multiple(of: str, divisor: int, **arguments: int) -> None:
    """Check integers, by their names, that are multiples of the argument ``of``, which is ``divisor``.

    Raises:
        ValueError: One is not.
    """
    for name, value in arguments.items():
        if value % divisor:
            raise ValueError(f'{name} must be a multiple of {of}, got {value} and {divisor}')


def check_probabilities(**arguments: Any) -> None:
    """Check arguments, by their names, that are probabilities of leaving something out: from 0 to less than 1.

    Raises:
        ValueError: One is not.
    """
    for name, value in arguments.items():
        if not is_number(value) or not 0 <= value < 1:
            raise ValueError(f'{name} must be a number from 0 to less than 1, got {value!r}')


def is_number(value: Any) -> bool:
    """Whether it is a finite number; True and False, though Python counts with them, are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
