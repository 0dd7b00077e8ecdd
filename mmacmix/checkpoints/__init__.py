from .io import WeightsError, allow_training_state, load_checkpoint, state_dict_of
from .sources import SOURCES, convert

__all__ = ['SOURCES', 'WeightsError', 'allow_training_state', 'convert', 'load_checkpoint', 'state_dict_of']
