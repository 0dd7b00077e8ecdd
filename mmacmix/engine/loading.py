"""Checkpoints that a run loads: each is read once, and must fit the model."""

import logging
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..checkpoints import WeightsError, load_checkpoint, state_dict_of
from ..checkpoints.io import check_fit
from ..errors import UserError
from .checkpoint_hook import latest_checkpoint

_read_ahead: dict[str, Any] = {}  # read by ``resume``, to be handed to MMEngine


def load_once(path: str, map_location: Any = None) -> Any:
    """Load a checkpoint for MMEngine: what ``resume`` has read already, or else the file."""
    return _read_ahead.pop(path) if path in _read_ahead else load_checkpoint(path, map_location)


def resume(cfg: Config) -> None:
    """Make a config resume from ``load_from``, or else from the latest checkpoint of its work directory, if any.

    Unless the config sets a seed, it gets that of the checkpoint, which decided how data sets were shuffled.

    Raises:
        UserError: The checkpoint cannot be read, holds weights alone, or was not written by FSDP, which resumes only
            its own checkpoints.
    """
    cfg.load_from = cfg.get('load_from') or latest_checkpoint(cfg.work_dir)
    cfg.resume = cfg.load_from is not None
    if not cfg.resume:
        return
    saved = load_checkpoint(cfg.load_from)
    meta = saved.get('meta') if isinstance(saved, dict) and 'message_hub' in saved else None
    progress = [meta.get(key) for key in ('epoch', 'iter')] if isinstance(meta, dict) else [None]
    if not all(type(number) is int and number >= 0 for number in progress):
        raise UserError(f'{cfg.load_from} holds weights and no training state to resume: start from it with load_from')
    if cfg.get('strategy', {}).get('type') == 'ShardedStrategy' and not _has_named_state(saved):
        raise UserError(f'{cfg.load_from} was not written by FSDP, which resumes its own: start from it with load_from')
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=meta.get('seed'))
    _read_ahead[cfg.load_from] = saved


def _has_named_state(saved: dict[str, Any]) -> bool:
    """Whether a checkpoint's optimizer state is indexed by parameter names rather than numbers."""
    groups = saved.get('optimizer', {}).get('param_groups', [])
    return bool(groups) and all(isinstance(name, str) for group in groups for name in group['params'])


@HOOKS.register_module()
class DataOnlyHook(Hook):
    """Removes the text of a config from a checkpoint's ``meta``, which MMEngine would run when training resumes.

    MMEngine looks under ``config`` for the number of GPUs, which MMDetection 2 noted there. Its own checkpoints, this
    package's included, have no such entry: they keep the config under ``cfg``, which resuming does not read.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)


class LoadingHook(Hook):
    """Checks that the checkpoint which MMEngine has just read fits the model; MMEngine would load whatever fits.

    Args:
        path: The checkpoint, for messages.
        partial: It starts a training, and some of it, such as a head for other classes, may be left out.
            Default: False.

    Raises:
        WeightsError: The checkpoint does not fit.
    """

    def __init__(self, path: str, partial: bool = False) -> None:
        self.path, self.partial = path, partial

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state_dict = state_dict_of(checkpoint, self.path)
        if 'state_dict' not in checkpoint and isinstance(checkpoint.get('model'), dict):
            raise WeightsError(f'{self.path} has weights under "model", and MMEngine looks for them under "state_dict"')
        note = check_fit(state_dict, unwrapped(runner.model), self.path, self.partial)
        if note:
            print_log(note, 'current', logging.WARNING)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers for several processes and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
