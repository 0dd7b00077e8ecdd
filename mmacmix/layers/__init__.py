from .acmix import ACmix
from .shift_conv import ShiftConv
from .spatial_reduction_acmix import SpatialReductionACmix, pad_to_patch
from .window_acmix import WindowACmix

__all__ = ['ACmix', 'ShiftConv', 'SpatialReductionACmix', 'WindowACmix', 'pad_to_patch']
