from .acmix import ACmix
from .lesa import LESA
from .mixing_layer import MixingLayer, MultiplyAdds
from .patchwise_acmix import PatchwiseACmix
from .shift_conv import ShiftConv
from .spatial_reduction_acmix import SpatialReductionACmix, pad_to_patch
from .two_paths import TwoPaths
from .window_acmix import WindowACmix
from .xvolution import XVolution

__all__ = [
    'LESA',
    'ACmix',
    'MixingLayer',
    'MultiplyAdds',
    'PatchwiseACmix',
    'ShiftConv',
    'SpatialReductionACmix',
    'TwoPaths',
    'WindowACmix',
    'XVolution',
    'pad_to_patch',
]
