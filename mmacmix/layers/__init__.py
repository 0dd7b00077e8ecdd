from .acmix import ACmix
from .shift_conv import ShiftConv

__all__ = ['ACmix', 'ShiftConv']
