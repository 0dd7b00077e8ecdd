from .gallery import draw_gallery
from .image_quality import image_quality
from .path_weights_hook import PathWeightsHook
from .results_hook import ResultsHook

__all__ = ['PathWeightsHook', 'ResultsHook', 'draw_gallery', 'image_quality']
