from ..versions import check_openmmlab

check_openmmlab()

from .gallery import draw_gallery
from .path_weights import PathWeightsHook
from .quality import image_quality
from .results_hook import ResultsHook

__all__ = ['PathWeightsHook', 'ResultsHook', 'draw_gallery', 'image_quality']
