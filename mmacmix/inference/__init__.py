"""Inference with trained detectors and segmentors on images and videos."""

from ..versions import check_openmmlab

check_openmmlab()

from .files import infer
from .media import find_media, read_image
from .model import build_model
from .predictor import Predictor

__all__ = ['Predictor', 'build_model', 'find_media', 'infer', 'read_image']
