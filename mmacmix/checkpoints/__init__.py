from .convert import SOURCES, convert

__all__ = ['SOURCES', 'convert']
