"""Resumes the random number generators together with training."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .plain_state_hook import plain


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Saves the random state in checkpoints and restores it when training resumes.

    In one process on a CPU, resumed training then ends with exactly the weights of uninterrupted training. This holds
    for MMEngine's iteration-based loop, and for its epoch-based loop, which resumes between epochs, unless
    ``persistent_workers`` carry random state across epochs. A checkpoint holds the state of the first process only, so
    nothing is restored if several processes run or wrote it; a warning then says how training will differ.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._saved_processes = 1

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['random_state'] = random_state()
        checkpoint['meta']['processes'] = get_world_size()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._saved = checkpoint.get('random_state')
        meta = checkpoint.get('meta')
        self._saved_processes = meta.get('processes', 1) if isinstance(meta, dict) else 1

    def before_train_epoch(self, runner: Runner) -> None:
        saved, self._saved = self._saved, None
        if saved is None or not runner.iter:  # not resumed
            return
        before, now = self._saved_processes, get_world_size()
        loop = runner.train_loop
        if before != now:
            runner.logger.warning(
                f'Training continues in {now} processes instead of {before}: schedule and learning rate are those of '
                'the checkpoint, but the number and choice of images per iteration and the random numbers differ'
            )
        elif now > 1:
            runner.logger.warning(
                f'Training continues with different random numbers: the random state of {now} processes is not saved'
            )
        elif hasattr(loop, 'dataloader_iterator'):  # the iteration-based loop first skips the batches it has seen
            loop.dataloader_iterator = _after(runner.iter, loop.dataloader_iterator, lambda: set_random_state(saved))
        else:
            set_random_state(saved)

    def before_val(self, runner: Runner) -> None:
        self._before_val = random_state()

    def after_val(self, runner: Runner) -> None:
        set_random_state(self._before_val)  # a resumed run skips this evaluation, which must not consume random numbers


def random_state() -> dict[str, Any]:
    """The random state of Python, NumPy and torch, in types that ``torch.load`` accepts as data."""
    return dict(
        python=random.getstate(),
        numpy=plain(np.random.get_state()),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a state returned by ``random_state``."""
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'].cpu())
    if torch.cuda.device_count() == len(state['cuda']):
        torch.cuda.set_rng_state_all([each.cpu() for each in state['cuda']])


def _after(number: int, items: Iterator, call: Callable[[], None]) -> Iterator:
    """The items, calling ``call`` once after the first ``number`` of them."""
    for _ in range(number):
        yield next(items)
    call()
    yield from items
