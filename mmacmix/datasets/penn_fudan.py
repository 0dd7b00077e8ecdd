"""Annotations of the Penn-Fudan pedestrians in COCO's format."""

import json
from pathlib import Path

import numpy as np

from ..errors import UserError
from .coco import coco_mask

IMAGES, MASKS = 'PNGImages', 'PedMasks'


def write_penn_fudan(root: str | Path, splits: int = 3, val: int = 50) -> dict[str, tuple[int, int]]:
    """Write ``annotations/split{i}_{train,val}.json`` for random splits of the photographs, which stay where they are.

    For split ``i``, the file names in alphabetical order are shuffled by ``numpy.random.default_rng(i)``, and the last
    ``val`` are for validation. Equal arguments write equal files.

    Args:
        root: The published folder, with ``PNGImages/*.png`` and ``PedMasks/*_mask.png``, where 0 is background and
            each person has a value.
        splits: Number of splits. Default: 3.
        val: Photographs for validation, of 170. Default: 50.

    Returns:
        The numbers of photographs and persons in each file, by its name without suffix.

    Raises:
        UserError: The folder holds no photographs, not enough of them, or one that has no mask of its size.
    """
    root = Path(root)
    paths = sorted((root / IMAGES).glob('*.png'))
    if not paths:
        raise UserError(f'there are no photographs in {root / IMAGES}: the published archive has a folder PennFudanPed')
    if not 0 < val < len(paths):
        raise UserError(f'val must be between 1 and {len(paths) - 1}, as there are {len(paths)} photographs, got {val}')
    photographs = [_annotated(path, root / MASKS / f'{path.stem}_mask.png') for path in paths]
    (root / 'annotations').mkdir(exist_ok=True)
    counts = {}
    for split in range(splits):
        order = np.random.default_rng(split).permutation(len(paths))
        for name, chosen in (('train', order[:-val]), ('val', order[-val:])):
            content = _coco([photographs[index] for index in sorted(chosen)])
            (root / 'annotations' / f'split{split}_{name}.json').write_text(json.dumps(content))
            counts[f'split{split}_{name}'] = len(content['images']), len(content['annotations'])
    return counts


def _annotated(image: Path, mask: Path) -> tuple[dict, list[dict]]:
    """A photograph and its persons."""
    from PIL import Image

    if not mask.is_file():
        raise UserError(f'{image} has no mask: there is no file {mask}')
    persons = np.asarray(Image.open(mask))
    with Image.open(image) as photograph:
        width, height = photograph.size
    if persons.shape != (height, width):
        raise UserError(f'{mask} must be a map of {width}x{height} pixels, as its photograph is')
    masks = [coco_mask(persons == person) for person in np.unique(persons) if person]
    return dict(file_name=image.name, width=width, height=height), masks


def _coco(photographs: list[tuple[dict, list[dict]]]) -> dict:
    images = [dict(id=index, **image) for index, (image, _) in enumerate(photographs)]
    persons = [(index, mask) for index, (_, masks) in enumerate(photographs) for mask in masks]
    annotations = [
        dict(id=number, image_id=index, category_id=1, iscrowd=0, **mask)
        for number, (index, mask) in enumerate(persons, 1)
    ]
    return dict(categories=[dict(id=1, name='person')], images=images, annotations=annotations)
