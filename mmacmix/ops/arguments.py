"""Checks of the operators' arguments. A message names the argument, what it must be, and what it was."""

from typing import Any


def check_integers(minimum: int = 1, **arguments: Any) -> None:
    """Check arguments, by their names, that are integers of at least ``minimum``.

    Raises:
        ValueError: One is not.
    """
    for name, value in arguments.items():
        if not is_integer(value) or value < minimum:
            raise ValueError(f'{name} must be {describe_integer(minimum)}, got {value!r}')


def check_window(kernel_size: int, stride: int = 1, dilation: int = 1, name: str = 'kernel_size') -> None:
    """Check the sizes of a window, whose side is the argument ``name``.

    Raises:
        ValueError: One is no positive integer, or the side is even.
    """
    check_integers(**{name: kernel_size, 'stride': stride, 'dilation': dilation})
    if kernel_size % 2 == 0:
        raise ValueError(f'{name} must be odd, so that a window has a centre, got {kernel_size}')


def is_integer(value: Any) -> bool:
    """Whether it is an integer; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def describe_integer(minimum: int) -> str:
    """What an integer of at least ``minimum`` is called in messages."""
    return 'a positive integer' if minimum == 1 else f'an integer of at least {minimum}'
