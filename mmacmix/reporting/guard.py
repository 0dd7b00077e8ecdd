"""What only reports never ends a training."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import print_log
from mmengine.visualization import Visualizer

from ..errors import first_line


class Guard:
    """Turns errors of reporting into one warning: the first is logged, later ones are ignored.

    Args:
        what: What is lost then, for the warning.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._has_warned = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Run the body of a ``with`` statement up to its first error."""
        try:
            yield
        except Exception as error:  # whatever it is, the training goes on
            if not self._has_warned:
                reason = f'{type(error).__name__} {first_line(error)}'
                print_log(f'{self.what} cannot be written, and the run continues: {reason}', 'current', logging.WARNING)
            self._has_warned = True


def guard_scalars(visualizer: Visualizer) -> None:
    """Keep scalars that a visualizer cannot write, on a full disk for instance, from ending the training."""
    write, guard = visualizer.add_scalars, Guard('scalars')

    def guarded(*arguments, **named) -> None:
        with guard():
            write(*arguments, **named)

    visualizer.add_scalars = guarded
