from .shapes import CLASSES, PALETTE, SEMANTIC_CLASSES, SEMANTIC_PALETTE, Scene, draw_scene, write_shapes
from .wrappers import innermost

__all__ = [
    'CLASSES',
    'PALETTE',
    'SEMANTIC_CLASSES',
    'SEMANTIC_PALETTE',
    'Scene',
    'draw_scene',
    'innermost',
    'write_shapes',
]
