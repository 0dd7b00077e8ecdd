"""Checkpoints that a run starts or resumes from: each is read once and must fit the model."""

import logging
import os
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from ..checkpoints import WeightsError, allow_training_state, load_checkpoint, state_dict_of
from ..checkpoints.data_pickle import TORCH_IS_OLD, load_data
from ..checkpoints.io import check_fit
from ..errors import UserError
from .checkpoint_hook import latest_checkpoint

_read_ahead: dict[str, Any] = {}  # checkpoints that have been read to check them, for MMEngine


def read_only_data() -> None:
    """Make this process load every checkpoint as data, whichever library loads it; for command lines.

    MMEngine's training checkpoints are loaded. A checkpoint that holds code is refused: with a ``WeightsError`` where
    MMEngine loads a file or an ``http(s)://`` address, with a ``pickle.UnpicklingError`` elsewhere.
    """
    allow_training_state()
    CheckpointLoader.register_scheme(('', 'http://', 'https://'), load_once, force=True)
    for name in ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        os.environ.pop(name, None)
    if TORCH_IS_OLD:
        torch.load = load_data
    else:
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'  # makes torch.load ignore weights_only=False


def load_once(path: str, map_location: Any = None) -> Any:
    """Load a checkpoint for MMEngine, without reading again what was read to check it; that is on the CPU."""
    return _read_ahead.pop(path) if path in _read_ahead else load_checkpoint(path, map_location)


def resume(cfg: Config) -> None:
    """Make a config resume from ``load_from``, or else from the latest checkpoint in its work directory, if any.

    If the config sets no seed, the seed of the checkpoint is used, because it determines how data is shuffled.

    Raises:
        UserError: The checkpoint cannot be read, holds no training state, or was not written by FSDP, for a config with
            FSDP.
    """
    cfg.load_from = cfg.get('load_from') or latest_checkpoint(cfg.work_dir)
    cfg.resume = cfg.load_from is not None
    if not cfg.resume:
        return
    saved = load_checkpoint(cfg.load_from)
    meta = saved.get('meta') if isinstance(saved, dict) and 'message_hub' in saved else None
    progress = [meta.get(key) for key in ('epoch', 'iter')] if isinstance(meta, dict) else [None]
    if not all(type(number) is int and number >= 0 for number in progress):
        raise UserError(f'{cfg.load_from} holds no training state to resume: start from its weights with load_from')
    is_sharded = (cfg.get('strategy') or {}).get('type') == 'ShardedStrategy'
    if is_sharded and not _is_indexed_by_name(saved.get('optimizer', {})):
        raise UserError(
            f'{cfg.load_from} was not written by FSDP, so FSDP cannot resume it: start from its weights with load_from'
        )
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=meta.get('seed'))
    _read_ahead[cfg.load_from] = saved


def _is_indexed_by_name(optimizer: dict[str, Any]) -> bool:
    groups = optimizer.get('param_groups', [])
    return bool(groups) and all(isinstance(name, str) for group in groups for name in group['params'])


@HOOKS.register_module()
class DataOnlyHook(Hook):
    """Removes ``meta['config']`` from loaded checkpoints, which MMEngine would run as Python code when it resumes.

    MMEngine looks there for the number of GPUs that MMDetection 2 recorded. Newer checkpoints store the config as
    ``meta['cfg']``, which MMEngine does not run.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)


def check_loading(path: str, model: nn.Module, partial: bool = False) -> None:
    """Check that a checkpoint which MMEngine is going to load fits the model; MMEngine would load the part that fits.

    Args:
        path: A file or an ``http(s)://`` address; others are not checked. It is read here, unless ``resume`` has read
            it, and handed to MMEngine later.
        model: The model, before FSDP shards it.
        partial: Accept a checkpoint that fits in part, such as one whose head is for other classes. Default: False.

    Raises:
        WeightsError: The checkpoint cannot be read or does not fit.
    """
    if '://' in path and not path.startswith(('http://', 'https://')):
        return  # MMEngine alone knows where such an address leads
    if path not in _read_ahead:
        _read_ahead[path] = load_checkpoint(path)
    checkpoint = _read_ahead[path]
    state_dict = state_dict_of(checkpoint, path)
    if 'state_dict' not in checkpoint and isinstance(checkpoint.get('model'), dict):
        raise WeightsError(f'{path} has its weights under "model"; MMEngine expects them under "state_dict"')
    note = check_fit(state_dict, unwrapped(model), path, partial)
    if note:
        print_log(note, 'current', logging.WARNING)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers for several processes and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
