"""Checks of arguments. Each message names the argument, the expected kind of value, and the value."""

from typing import Any


def check_integers(minimum: int = 1, **arguments: Any) -> None:
    """Check that arguments, given by name, are integers of at least ``minimum``.

    Raises:
        ValueError: One of them is not.
    """
    for name, value in arguments.items():
        if not is_integer(value) or value < minimum:
            raise ValueError(f'{name} must be {describe_integer(minimum)}, got {value!r}')


def check_window(kernel_size: int, stride: int = 1, dilation: int = 1, name: str = 'kernel_size') -> None:
    """Check a window's sizes; ``name`` is the argument that ``kernel_size`` was given as.

    Raises:
        ValueError: One of them is not a positive integer, or ``kernel_size`` is even.
    """
    check_integers(**{name: kernel_size, 'stride': stride, 'dilation': dilation})
    if kernel_size % 2 == 0:
        raise ValueError(f'{name} must be odd, so that the window has a centre, got {kernel_size}')


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an integer and not a Boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def describe_integer(minimum: int) -> str:
    """The phrase that messages use for an integer of at least ``minimum``."""
    return 'a positive integer' if minimum == 1 else f'an integer of at least {minimum}'
