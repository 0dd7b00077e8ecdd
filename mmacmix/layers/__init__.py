from .acmix import ACmix
from .shift_conv import ShiftConv
from .window_acmix import WindowACmix

__all__ = ['ACmix', 'ShiftConv', 'WindowACmix']
