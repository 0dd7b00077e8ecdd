"""A training that was stopped goes on as if it had not been."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Keeps the state of the random numbers in checkpoints and takes it up when training resumes.

    On a CPU, in one process, a resumed training then ends with the weights, bit for bit, of one that ran through: with
    MMEngine's loop by iterations always; with its loop by epochs, which resumes between epochs, unless
    ``persistent_workers`` carry random numbers of their own from one epoch to the next. Of several processes only the
    first one's state would be in a checkpoint, so none is taken up, and a warning says what will be different.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._processes = 1  # those that the checkpoint is of

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['random_state'] = random_state()
        checkpoint['meta']['processes'] = get_world_size()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._saved = checkpoint.get('random_state')
        meta = checkpoint.get('meta')
        self._processes = meta.get('processes', 1) if isinstance(meta, dict) else 1

    def before_train_epoch(self, runner: Runner) -> None:
        saved, self._saved = self._saved, None
        loop = runner.train_loop
        if saved is None or not runner.iter:  # without iterations nothing is resumed
            return
        processes = get_world_size()
        if processes > 1 or self._processes > 1:
            runner.logger.warning(f'Training {_what_changes(self._processes, processes)}')
            return
        if hasattr(loop, 'dataloader_iterator'):  # by iterations: the loop will first skip the batches that it had
            loop.dataloader_iterator = _after(runner.iter, loop.dataloader_iterator, lambda: set_random_state(saved))
        else:
            set_random_state(saved)

    def before_val(self, runner: Runner) -> None:
        self._before_val = random_state()

    def after_val(self, runner: Runner) -> None:
        set_random_state(self._before_val)  # a training that resumes at an evaluation leaves it out


def _what_changes(before: int, now: int) -> str:
    if before == now:
        return f'goes on with other random numbers than it would have had: those of {now} processes are not kept'
    return (
        f'goes on with {now} instead of {before} processes: schedule and learning rate stay those of the checkpoint, '
        'while an iteration takes another number of images, other ones, with other random numbers'
    )


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's random numbers, made of what ``torch.load`` takes for data."""
    name, numbers, *rest = np.random.get_state()
    return dict(
        python=random.getstate(),
        numpy=(name, numbers.tolist(), *rest),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def set_random_state(state: dict[str, Any]) -> None:
    """Take up what ``random_state`` gave."""
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'].cpu())
    if torch.cuda.device_count() == len(state['cuda']):
        torch.cuda.set_rng_state_all([each.cpu() for each in state['cuda']])


def _after(number: int, items: Iterator, call: Callable[[], None]) -> Iterator:
    """The items, with a call after so many of them."""
    for _ in range(number):
        yield next(items)
    call()
    yield from items
