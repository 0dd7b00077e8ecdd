from .atomic_files import AtomicFileBackend
from .checkpoint_hook import AtomicCheckpointHook, latest_checkpoint
from .finite_hook import FiniteHook
from .random_state_hook import RandomStateHook

__all__ = ['AtomicCheckpointHook', 'AtomicFileBackend', 'FiniteHook', 'RandomStateHook', 'latest_checkpoint']
