"""A trained network on images without annotations."""

from .files import infer
from .media import find_media, read_image
from .predictor import Predictor

__all__ = ['Predictor', 'find_media', 'infer', 'read_image']
