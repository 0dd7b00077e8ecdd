"""Checkpoints that ``torch.load`` reads with its default, ``weights_only=True``."""

from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class PlainStateHook(Hook):
    """Stores MMEngine's log buffers as lists and NumPy numbers as Python numbers in checkpoints.

    By default, torch 2.6 and newer reads only tensors and plain values. Checkpoints in this form can therefore be read
    by programs that do not allow further types, such as the hosts' own tools and inferencers.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['message_hub'] = plain(checkpoint['message_hub'])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        hub = checkpoint.get('message_hub')
        if isinstance(hub, dict) and isinstance(hub.get('log_scalars'), dict):
            hub['log_scalars'] = {
                name: HistoryBuffer(**buffer) if isinstance(buffer, dict) else buffer
                for name, buffer in hub['log_scalars'].items()
            }


def plain(state: Any) -> Any:
    """Convert log buffers and NumPy values inside a nested state to Python's own types."""
    if isinstance(state, HistoryBuffer):
        log, count = state.data
        return dict(log_history=log.tolist(), count_history=count.tolist(), max_length=state.max_length)
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(plain(each) for each in state)
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state
