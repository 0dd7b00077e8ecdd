from .atomic_files import AtomicFileBackend
from .checkpoint_hook import AtomicCheckpointHook, latest_checkpoint
from .data_only_hook import DataOnlyHook
from .finite_hook import FiniteHook
from .random_state_hook import RandomStateHook
from .sharding import ShardedOptimWrapper, ShardedStrategy, acmix_blocks

__all__ = [
    'AtomicCheckpointHook',
    'AtomicFileBackend',
    'DataOnlyHook',
    'FiniteHook',
    'RandomStateHook',
    'ShardedOptimWrapper',
    'ShardedStrategy',
    'acmix_blocks',
    'latest_checkpoint',
]
