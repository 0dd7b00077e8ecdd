from .gallery import draw_gallery
from .results_hook import ResultsHook

__all__ = ['ResultsHook', 'draw_gallery']
