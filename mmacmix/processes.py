"""A training or test in several processes: what it asks of its config, and what CPUs ask."""

import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

# What shows that a launcher has started this process, and how to start it.
_LAUNCHED = {
    'pytorch': ('RANK', 'torchrun: use tools/dist_train.sh or tools/dist_test.sh'),
    'slurm': ('SLURM_PROCID', 'srun: use tools/slurm_train.sh'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}


def prepare_processes(cfg: Config) -> None:
    """Let a config run in the processes that its launcher has started, on CPUs where there is no GPU.

    Raises:
        ValueError: They have not been started so, or can't run what the config asks for.
    """
    if cfg.launcher == 'none':
        if cfg.get('strategy', {}).get('type') == 'ShardedStrategy':
            raise ValueError('ShardedStrategy shares a network out over processes: start them with tools/dist_train.sh')
        return
    variable, starter = _LAUNCHED[cfg.launcher]
    if variable not in os.environ:
        raise ValueError(f'--launcher {cfg.launcher} is for processes that were started by {starter}')
    if torch.cuda.is_available():
        return
    if cfg.launcher != 'pytorch':
        raise ValueError(f'--launcher {cfg.launcher} needs GPUs and torch sees none; on CPUs --launcher pytorch runs')
    # MMEngine's own start takes a GPU for each.
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
    _keep_batch_norm_apart(cfg)


def _keep_batch_norm_apart(cfg: Config) -> None:
    """torch synchronises batch normalisation on GPUs alone."""
    synchronised = [each for each in _settings(cfg.model) if each.get('type') in ('SyncBN', 'MMSyncBN')]
    for each in synchronised:
        each['type'] = 'BN'
    if synchronised or cfg.get('sync_bn'):
        cfg.sync_bn = None
        print_log(
            'Batch normalisation is not synchronised, which takes GPUs: each process has statistics of its own images',
            'current',
            logging.WARNING,
        )


def _settings(value: Any) -> Iterator[dict]:
    """All dictionaries inside."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _settings(each)
