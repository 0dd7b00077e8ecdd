from .atomic_files import AtomicFileBackend
from .checkpoint_hook import AtomicCheckpointHook, latest_checkpoint
from .data_only_hook import DataOnlyHook
from .random_state_hook import RandomStateHook

__all__ = ['AtomicCheckpointHook', 'AtomicFileBackend', 'DataOnlyHook', 'RandomStateHook', 'latest_checkpoint']
