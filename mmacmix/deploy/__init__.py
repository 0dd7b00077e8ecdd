from .fuse import fuse
from .fused_acmix import FusedACmix
from .fused_xvolution import FusedXVolution

__all__ = ['FusedACmix', 'FusedXVolution', 'fuse']
