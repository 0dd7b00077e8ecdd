from .acmix import ACmix
from .patchwise_acmix import PatchwiseACmix
from .shift_conv import ShiftConv
from .spatial_reduction_acmix import SpatialReductionACmix, pad_to_patch
from .two_paths import TwoPaths
from .window_acmix import WindowACmix

__all__ = ['ACmix', 'PatchwiseACmix', 'ShiftConv', 'SpatialReductionACmix', 'TwoPaths', 'WindowACmix', 'pad_to_patch']
