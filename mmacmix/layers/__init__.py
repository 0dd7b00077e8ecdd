from .acmix import ACmix
from .patchwise_acmix import PatchwiseACmix
from .shift_conv import ShiftConv
from .spatial_reduction_acmix import SpatialReductionACmix, pad_to_patch
from .two_paths import MultiplyAdds, TwoPaths
from .window_acmix import WindowACmix

__all__ = [
    'ACmix',
    'MultiplyAdds',
    'PatchwiseACmix',
    'ShiftConv',
    'SpatialReductionACmix',
    'TwoPaths',
    'WindowACmix',
    'pad_to_patch',
]
