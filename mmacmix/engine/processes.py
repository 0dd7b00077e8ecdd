"""Adapts a config to several processes, on GPUs or on CPUs."""

import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from ..errors import UserError

# For each launcher, the environment variable that it sets and how to start it.
_LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun: use tools/dist_train.sh or tools/dist_test.sh'),
    'slurm': ('SLURM_PROCID', 'srun: use tools/slurm_train.sh'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}


def prepare_processes(cfg: Config) -> None:
    """Prepare a config for the processes that its launcher started; without a GPU they run on CPUs.

    Raises:
        UserError: The launcher did not start this process, or cannot run the config.
    """
    if cfg.launcher == 'none':
        if (cfg.get('strategy') or {}).get('type') == 'ShardedStrategy':
            raise UserError('ShardedStrategy needs several processes: start them with tools/dist_train.sh')
        return
    variable, starter = _LAUNCHERS[cfg.launcher]
    if variable not in os.environ:
        raise UserError(f'--launcher {cfg.launcher} needs processes started by {starter}')
    if torch.cuda.is_available():
        return
    if cfg.launcher != 'pytorch':
        raise UserError(f'--launcher {cfg.launcher} needs GPUs, and torch finds none; on CPUs use --launcher pytorch')
    torch.distributed.init_process_group('gloo')  # MMEngine would assign a GPU to each process
    cfg.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        ),
    )
    _replace_sync_batch_norm(cfg)


def _replace_sync_batch_norm(cfg: Config) -> None:
    """Replace synchronised batch normalisation, which torch implements for GPUs only."""
    synchronized = [each for each in nested_dicts(cfg.model) if each.get('type') in ('SyncBN', 'MMSyncBN')]
    for each in synchronized:
        each['type'] = 'BN'
    if synchronized or cfg.get('sync_bn'):
        cfg.sync_bn = None
        print_log(
            'Synchronised batch normalisation needs GPUs: each process uses the statistics of its own images',
            'current',
            logging.WARNING,
        )


def nested_dicts(value: Any) -> Iterator[dict]:
    """All dictionaries inside nested dictionaries, lists and tuples."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from nested_dicts(each)
