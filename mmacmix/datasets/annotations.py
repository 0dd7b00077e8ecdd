"""Checks of COCO annotation files: unusable ones raise an error before training, ignored annotations are counted.

They run on the content that MMDetection has parsed, since parsing COCO's half gigabyte takes long.
"""

import gc
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from math import isfinite
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import DefaultScope

from .files import DataError, check_files

_KEYS = dict(
    images={'id', 'file_name', 'height', 'width'},
    categories={'id', 'name'},
    annotations={'id', 'image_id', 'category_id', 'bbox', 'area'},
)


@contextmanager
def checked_annotations() -> Iterator[None]:
    """Within it, MMDetection's ``CocoDataset`` checks the files it reads, if the default scope is ``mmdet``.

    Raises:
        DataError: An annotation file is unusable.
    """
    scope = DefaultScope.get_current_instance()
    if scope is None or scope.scope_name != 'mmdet':
        yield
        return
    from mmdet.datasets import CocoDataset

    coco_api = CocoDataset.COCOAPI

    def read(dataset: CocoDataset, path: str) -> coco_api:  # bound as a method, which passes the data set
        class CheckedCOCO(coco_api):
            def createIndex(self) -> None:  # pycocotools calls it on the parsed content
                _check(self.dataset, dataset)
                super().createIndex()

        collecting = gc.isenabled()
        gc.disable()  # scanning millions of new objects again and again would double the time
        try:
            return CheckedCOCO(path)
        except DataError:
            raise
        except Exception as error:  # JSON, encoding and type errors
            reason = f'{type(error).__name__} {error}'
            raise DataError(f'{dataset.ann_file} is not a COCO annotation file: {reason}') from error
        finally:
            if collecting:
                gc.enable()

    CocoDataset.COCOAPI = read
    try:
        yield
    finally:
        CocoDataset.COCOAPI = coco_api


def _check(content: Any, dataset: Any) -> None:
    path, folder = dataset.ann_file, dataset.data_prefix['img']
    masks = any(getattr(step, 'with_mask', False) for step in dataset.pipeline.transforms)
    for note in check_annotations(content, path, dataset.metainfo['classes'], masks, dataset.test_mode):
        print_log(note, 'current', logging.WARNING)
    if not dataset.backend_args:
        check_files((os.path.join(folder, image['file_name']) for image in content['images']), path)


def check_annotations(content: Any, path: str, classes: Sequence[str], masks: bool, test: bool) -> list[str]:
    """Check a file's parsed content and return a sentence per reason for which MMDetection ignores annotations.

    ``classes`` are those of the config, ``masks`` says whether masks are loaded, and a file for testing may lack
    ``annotations``. Raises a ``DataError`` if the file is unusable.
    """
    _check_keys(content, path, test)
    annotations, categories = content.get('annotations', []), content['categories']
    _check_classes([category['name'] for category in categories], path, classes)
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    in_config = {category['id']: category['name'] in classes for category in categories}
    ignored: dict[str, list] = {}
    for annotation in annotations:
        try:
            reason = _reason_to_ignore(annotation, sizes, in_config, masks)
        except ValueError as error:
            raise DataError(f'{path}: annotation {annotation["id"]}: {error}') from error
        if reason:
            ignored.setdefault(reason, []).append(annotation['id'])
    notes = [
        f'{path}: {len(ids)} of {len(annotations)} annotations are ignored because {reason} (first id: {ids[0]})'
        for reason, ids in ignored.items()
    ]
    used = len(annotations) - sum(map(len, ignored.values()))
    if not used and 'annotations' in content:
        raise DataError('; '.join(notes) or f'{path} has no annotations')
    if used and all(annotation.get('iscrowd') for annotation in annotations):
        raise DataError(f'{path} has only crowd annotations, which training and evaluation ignore: add single objects')
    return notes


def _check_keys(content: Any, path: str, test: bool) -> None:
    for name, keys in _KEYS.items():
        default = [] if test and name == 'annotations' else None
        entries = content.get(name, default) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f'{path} is not a COCO annotation file: it has no list of {name}')
        for index, entry in enumerate(entries):
            missing = keys - entry.keys() if isinstance(entry, dict) else keys
            if missing:
                lacking = ', '.join(sorted(missing))
                raise DataError(f'{path}: entry {index} of {name}, counting from 0, lacks {lacking}')
        ids = {entry['id'] for entry in entries}
        if len(ids) < len(entries):
            raise DataError(f'{path}: ids must be unique, but {len(entries)} {name} have {len(ids)} different ids')


def _check_classes(names: Sequence[str], path: str, classes: Sequence[str]) -> None:
    """MMDetection numbers classes in the order of the file, whatever their order in the config."""
    used = [name for name in names if name in classes]
    for index, (expected, found) in enumerate(zip_longest(classes, used)):
        if expected != found:
            raise DataError(
                f'class {index} is {expected!r} in the config but {found!r} in {path}: '
                "the config must name classes from the file's categories, in the file's order"
            )


def _reason_to_ignore(
    annotation: dict, sizes: dict[Any, tuple[int, int]], in_config: dict[Any, bool], masks: bool
) -> str | None:
    """The reason why MMDetection ignores an annotation, or None; raises a ValueError if it is unusable."""
    if annotation['image_id'] not in sizes:
        return 'their image is not in the file'
    if annotation['category_id'] not in in_config:
        return 'their category is not in the file'
    if annotation.get('ignore'):
        return 'they are marked as ignored'
    if annotation.get('iscrowd', 0) not in (0, 1):
        raise ValueError(f'iscrowd must be 0 or 1, got {annotation["iscrowd"]!r}')
    box, area = annotation['bbox'], annotation['area']
    try:
        x, y, width, height = box
        finite = isfinite(x + y + width + height + area)
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise ValueError(f'bbox must be four finite numbers and area one, got {box} and {area}')
    image_width, image_height = sizes[annotation['image_id']]
    outside = x >= image_width or y >= image_height or x + width <= 0 or y + height <= 0
    if outside or width < 1 or height < 1 or area <= 0:
        return 'their box is empty or outside the image, although evaluation counts them'
    if not in_config[annotation['category_id']]:
        return 'their category is not in the config'
    return _reason_to_ignore_mask(annotation.get('segmentation'), image_width, image_height) if masks else None


def _reason_to_ignore_mask(segmentation: Any, width: int, height: int) -> str | None:
    if not segmentation:
        raise ValueError('segmentation is missing, but masks are loaded')
    try:
        if isinstance(segmentation, dict):
            size, counts = segmentation['size'], segmentation['counts']
            if size != [height, width]:
                raise ValueError(f'segmentation has height and width {size}, but its image has {[height, width]}')
            runs = _decode_runs(counts) if isinstance(counts, str) else counts
            if sum(runs) != height * width or min(runs) < 0:
                raise ValueError(f'segmentation needs non-negative runs of {height * width} pixels, got {sum(runs)}')
            return None
        polygons = [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]
        if not polygons:
            return 'their polygons have fewer than three corners'
        # pycocotools crashes on huge coordinates. Unless they cancel, their sum reveals them, and NaN as well.
        if not all(abs(sum(polygon)) < 100 * len(polygon) * max(width, height) for polygon in polygons):
            raise ValueError('segmentation has coordinates that are not finite or lie far outside the image')
        if all(_is_outside(polygon, width, height) for polygon in polygons):
            raise ValueError('segmentation lies outside the image')
    except (KeyError, TypeError) as error:
        raise ValueError('segmentation is neither a list of polygons nor a run-length code') from error
    return None


def _decode_runs(code: str) -> list[int]:
    """Run lengths of COCO's compressed code, decoded here because pycocotools reads past the end of a broken one.

    Each character holds five bits of a number, lowest first, and a flag that more follow.
    """
    runs: list[int] = []
    number = shift = 0
    for character in code.encode():
        bits = character - 48
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:  # negative
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))  # from the fourth on, relative to the last but one
            number = shift = 0
    return runs


def _is_outside(polygon: Sequence[float], width: int, height: int) -> bool:
    if 0 < polygon[0] < width and 0 < polygon[1] < height:  # almost always
        return False
    xs, ys = polygon[::2], polygon[1::2]
    return max(xs) <= 0 or min(xs) >= width or max(ys) <= 0 or min(ys) >= height
