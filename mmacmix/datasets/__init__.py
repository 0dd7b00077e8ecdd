"""The generated data set of shapes, and checks of all data sets."""

from ..versions import check_openmmlab

check_openmmlab()

from .annotations import checked_annotations
from .files import check_maps
from .items import checked_items
from .penn_fudan import write_penn_fudan
from .shapes import CLASSES, PALETTE, SEMANTIC_CLASSES, SEMANTIC_PALETTE, Scene, draw_scene, write_shapes
from .wrappers import innermost

__all__ = [
    'CLASSES',
    'PALETTE',
    'SEMANTIC_CLASSES',
    'SEMANTIC_PALETTE',
    'Scene',
    'check_maps',
    'checked_annotations',
    'checked_items',
    'draw_scene',
    'innermost',
    'write_penn_fudan',
    'write_shapes',
]
