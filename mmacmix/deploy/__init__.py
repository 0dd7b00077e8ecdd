from .exporter import export
from .fusion import fuse

__all__ = ['export', 'fuse']
