from .atomic_files import AtomicFileBackend
from .checkpoint_hook import AtomicCheckpointHook, latest_checkpoint
from .random_state_hook import RandomStateHook

__all__ = ['AtomicCheckpointHook', 'AtomicFileBackend', 'RandomStateHook', 'latest_checkpoint']
