"""The exceptions for mistakes that the user can correct, and parts of their messages."""

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake that the user can correct; command lines end with its message, which is one sentence."""


class LibraryError(UserError, ImportError):
    """A library is missing, broken or too old."""


def listed(names: Sequence[str], limit: int) -> str:
    """The first names of a list, and the number of the others: ``a, b and 3 more``."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has no message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
