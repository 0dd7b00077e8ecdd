from ..versions import check_openmmlab

check_openmmlab()

from .atomic_files import AtomicFileBackend, write_atomically
from .checkpoint_hook import AtomicCheckpointHook, latest_checkpoint
from .finite_hook import FiniteHook
from .fsdp import ShardedOptimWrapper, ShardedStrategy, acmix_blocks
from .loading import DataOnlyHook, check_loading, load_once, resume, unwrapped
from .norm_statistics_hook import NormStatisticsHook
from .plain_state_hook import PlainStateHook
from .random_state_hook import RandomStateHook
from .runner import build_runner, checked_runner

__all__ = [
    'AtomicCheckpointHook',
    'AtomicFileBackend',
    'DataOnlyHook',
    'FiniteHook',
    'NormStatisticsHook',
    'PlainStateHook',
    'RandomStateHook',
    'ShardedOptimWrapper',
    'ShardedStrategy',
    'acmix_blocks',
    'build_runner',
    'check_loading',
    'checked_runner',
    'latest_checkpoint',
    'load_once',
    'resume',
    'unwrapped',
    'write_atomically',
]
