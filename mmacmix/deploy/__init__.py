from .fusion import fuse

__all__ = ['fuse']
