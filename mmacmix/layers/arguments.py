"""Checks of the arguments of layers and networks. Error messages give an argument's name, its constraint and its value.

Arguments are passed by keyword; each check raises ``ValueError`` for the first one that violates the constraint.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..ops.arguments import describe_integer, is_integer


def check_integer_entries(entries: int, minimum: int = 1, **arguments: Any) -> None:
    """Check that arguments are sequences of integers of at least ``minimum``, one per stage; more are ignored."""
    check_entries(entries, **arguments)
    _check(
        lambda values: all(is_integer(value) and value >= minimum for value in values),
        f'be {describe_integer(minimum)} for each stage',
        arguments,
    )


def check_entries(entries: int, **arguments: Any) -> None:
    """Check that arguments are sequences with an entry per stage; extra entries are ignored."""
    _check(
        lambda values: isinstance(values, Sequence) and not isinstance(values, str) and len(values) >= entries,
        f'have an entry for each of {entries} stages',
        arguments,
    )


def check_choice(choices: tuple[int | str, ...], **arguments: Any) -> None:
    """Check that arguments are among ``choices``."""
    _check(lambda value: isinstance(value, int | str) and value in choices, f'be one of {choices}', arguments)


def check_without(reserved: tuple[str, ...], **arguments: Any) -> None:
    """Check that arguments are dicts without the ``reserved`` keys, which the caller sets."""
    _check(
        lambda value: isinstance(value, dict) and value.keys().isdisjoint(reserved),
        f'be a dict without {", ".join(reserved)}',
        arguments,
    )


def check_multiple(of: str, divisor: int, **arguments: int) -> None:
    """Check that arguments are multiples of ``divisor``, the value of the argument ``of``."""
    for name, value in arguments.items():
        if value % divisor:
            raise ValueError(f'{name} must be a multiple of {of}, got {value} and {divisor}')


def check_probabilities(**arguments: Any) -> None:
    """Check that arguments are probabilities less than 1."""
    _check(lambda value: is_number(value) and 0 <= value < 1, 'be a number from 0 to less than 1', arguments)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number; booleans do not count."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(is_valid: Callable[[Any], bool], constraint: str, arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if not is_valid(value):
            raise ValueError(f'{name} must {constraint}, got {value!r}')
