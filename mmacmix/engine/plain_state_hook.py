"""Checkpoints that torch reads as data by default."""

from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class PlainStateHook(Hook):
    """Keeps MMEngine's log buffers in checkpoints as lists, and NumPy's numbers as Python's.

    torch 2.6 and newer refuses files that hold anything but tensors and plain values, unless a program names the types
    first. So the hosts' own tools and inferencers, which do not, can read a checkpoint of this package's trainings.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['message_hub'] = plain(checkpoint['message_hub'])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        hub = checkpoint.get('message_hub')
        if isinstance(hub, dict) and isinstance(hub.get('log_scalars'), dict):
            buffers = hub['log_scalars'].items()
            hub['log_scalars'] = {
                name: HistoryBuffer(**each) if isinstance(each, dict) else each for name, each in buffers
            }


def plain(state: Any) -> Any:
    """A nested state made of Python's own types alone, tensors aside."""
    if isinstance(state, HistoryBuffer):
        log, count = state.data
        return dict(log_history=log.tolist(), count_history=count.tolist(), max_length=state.max_length)
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(plain(each) for each in state)
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state
