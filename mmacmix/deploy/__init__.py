from .fuse import fuse
from .fused_acmix import FusedACmix

__all__ = ['FusedACmix', 'fuse']
