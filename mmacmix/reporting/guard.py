"""Errors in reporting, which never end a training."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import print_log
from mmengine.visualization import Visualizer

from ..errors import first_line


class Guard:
    """Suppresses errors in reporting: logs the first one as a warning and ignores later ones.

    Args:
        subject: What the warning calls the output that is lost, in the plural.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._has_warned = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """A context that ends quietly at the first error inside."""
        try:
            yield
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                reason = f'{type(error).__name__} {first_line(error)}'
                message = f'{self.subject} cannot be written, and the run continues: {reason}'
                print_log(message, 'current', logging.WARNING)


def guard_scalars(visualizer: Visualizer) -> None:
    """Let a visualizer that cannot write scalars, for instance to a full disk, warn once instead of raising."""
    add_scalars, guard = visualizer.add_scalars, Guard('scalars')

    def guarded(*args: Any, **kwargs: Any) -> None:
        with guard():
            add_scalars(*args, **kwargs)

    visualizer.add_scalars = guarded
