from .acmix import ACmix
from .fused_acmix import FusedACmix
from .fused_xvolution import FusedXVolution
from .lesa import LESA
from .mixing_layer import Macs, MixingLayer
from .patchwise_acmix import PatchwiseACmix
from .shift_conv import ShiftConv
from .spatial_reduction_acmix import SpatialReductionACmix, pad_to_patch
from .two_paths import TwoPaths
from .window_acmix import WindowACmix
from .xvolution import XVolution

#: Layers with a convolution's signature. MMEngine's registry has them as ``conv_cfg=dict(type=...)``.
CONV_LAYERS = (ACmix, LESA, XVolution)

__all__ = [
    'CONV_LAYERS',
    'LESA',
    'ACmix',
    'FusedACmix',
    'FusedXVolution',
    'Macs',
    'MixingLayer',
    'PatchwiseACmix',
    'ShiftConv',
    'SpatialReductionACmix',
    'TwoPaths',
    'WindowACmix',
    'XVolution',
    'pad_to_patch',
]
