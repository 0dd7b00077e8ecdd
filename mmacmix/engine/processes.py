"""Training and testing in several processes: what the launcher, and CPUs without a GPU, require of a config."""

import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from ..errors import UserError

# The environment variable that a launcher sets, and how to use that launcher.
_LAUNCHED = {
    'pytorch': ('RANK', 'torchrun: use tools/dist_train.sh or tools/dist_test.sh'),
    'slurm': ('SLURM_PROCID', 'srun: use tools/slurm_train.sh'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}


def prepare_processes(cfg: Config) -> None:
    """Prepare a config for the processes that its launcher has started; without a GPU they run on CPUs.

    Raises:
        UserError: The launcher has not started this process, or cannot run the config.
    """
    if cfg.launcher == 'none':
        if cfg.get('strategy', {}).get('type') == 'ShardedStrategy':
            raise UserError('ShardedStrategy shards a network over processes: start them with tools/dist_train.sh')
        return
    variable, starter = _LAUNCHED[cfg.launcher]
    if variable not in os.environ:
        raise UserError(f'--launcher {cfg.launcher} is for processes that were started by {starter}')
    if torch.cuda.is_available():
        return
    if cfg.launcher != 'pytorch':
        raise UserError(f'--launcher {cfg.launcher} needs GPUs and torch sees none; on CPUs --launcher pytorch runs')
    # MMEngine's own initialisation assigns a GPU to each process.
    torch.distributed.init_process_group('gloo')
    cfg.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        ),
    )
    _unsynchronize_batch_norm(cfg)


def _unsynchronize_batch_norm(cfg: Config) -> None:
    """Replace synchronised batch normalisation, which torch has on GPUs only."""
    synchronized = [each for each in _dicts(cfg.model) if each.get('type') in ('SyncBN', 'MMSyncBN')]
    for each in synchronized:
        each['type'] = 'BN'
    if synchronized or cfg.get('sync_bn'):
        cfg.sync_bn = None
        print_log(
            'Batch normalisation is not synchronised, which needs GPUs: each process uses the statistics of its images',
            'current',
            logging.WARNING,
        )


def _dicts(value: Any) -> Iterator[dict]:
    """All dictionaries inside a nested value."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _dicts(each)
