"""COCO annotation files: what MMDetection leaves out is counted, and what it can't use ends the work before it starts.

MMDetection reads such a file once, of which this takes part: COCO's is half a gigabyte.
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
    """Meanwhile MMDetection's ``CocoDataset`` checks the files that it reads, where the default scope is its own.

    Raises:
        DataError: A file can't be used.
    """
    scope = DefaultScope.get_current_instance()
    if scope is None or scope.scope_name != 'mmdet':
        yield
        return
    from mmdet.datasets import CocoDataset

    theirs = CocoDataset.COCOAPI

    def read(dataset: CocoDataset, path: str) -> theirs:  # becomes a method, so that it has the data set
        class Checked(theirs):
            def createIndex(self) -> None:  # what pycocotools calls with the content it has read
                _check(self.dataset, dataset)
                super().createIndex()

        try:
            with _without_garbage_collection():
                return Checked(path)
        except DataError:
            raise
        except Exception as error:  # of the format, of the encoding, of numbers and names that are something else
            reason = f'{type(error).__name__} {error}'
            raise DataError(f'{dataset.ann_file} is no COCO annotation file: {reason}') from error

    CocoDataset.COCOAPI = read
    try:
        yield
    finally:
        CocoDataset.COCOAPI = theirs


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """It would look through millions of new objects again and again, for half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _check(content: Any, dataset: Any) -> None:
    path, folder = dataset.ann_file, dataset.data_prefix['img']
    masks = any(getattr(step, 'with_mask', False) for step in dataset.pipeline.transforms)
    for note in check_annotations(content, path, dataset.metainfo['classes'], masks, dataset.test_mode):
        print_log(note, 'current', logging.WARNING)
    if not dataset.backend_args:
        check_files((os.path.join(folder, image['file_name']) for image in content['images']), path)


def check_annotations(content: Any, path: str, classes: Sequence[str], masks: bool, test: bool) -> list[str]:
    """Check what a COCO annotation file holds.

    Args:
        content: What is in the file.
        path: The file.
        classes: Names of the config's classes.
        masks: Masks are loaded too.
        test: It is for an evaluation, for which a file without ``annotations`` will do.

    Returns:
        Sentences about annotations that MMDetection leaves out.

    Raises:
        DataError: It can't be used.
    """
    _check_keys(content, path, test)
    annotations, categories = content.get('annotations', []), content['categories']
    _check_classes([each['name'] for each in categories], path, classes)
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    named = {category['id']: category['name'] in classes for category in categories}
    left_out: dict[str, list] = {}
    for annotation in annotations:
        reason = _reason_to_leave_out(annotation, path, sizes, named, masks)
        if reason:
            left_out.setdefault(reason, []).append(annotation['id'])
    notes = [
        f'{path}: {len(ids)} of {len(annotations)} annotations {reason}, the first that of id {ids[0]}'
        for reason, ids in left_out.items()
    ]
    used = len(annotations) - sum(map(len, left_out.values()))
    if not used and 'annotations' in content:
        raise DataError('; '.join(notes) or f'{path} has no annotations')
    if used and all(annotation.get('iscrowd') for annotation in annotations):
        raise DataError(f'{path} has nothing but crowds, on which nothing is trained or evaluated')
    return notes


def _check_keys(content: Any, path: str, test: bool) -> None:
    for name, keys in _KEYS.items():
        if name == 'annotations' and test and isinstance(content, dict) and name not in content:
            continue
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f'{path} is no COCO annotation file: it has no list of {name}')
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict) or not keys <= entry.keys():
                lacking = ', '.join(sorted(keys - entry.keys())) if isinstance(entry, dict) else 'keys'
                raise DataError(f'{path}: number {index} of its {name}, counted from 0, has no {lacking}')
        ids = {entry['id'] for entry in entries}
        if len(ids) < len(entries):
            raise DataError(f'{path}: {len(entries)} {name} have {len(ids)} different ids')


def _check_classes(names: Sequence[str], path: str, classes: Sequence[str]) -> None:
    """MMDetection numbers classes as the file does, whatever their order in the config."""
    for index, (ours, theirs) in enumerate(zip_longest(classes, [name for name in names if name in classes])):
        if ours != theirs:
            raise DataError(
                f'class {index} is {ours!r} in the config, and of the categories in {path} it is {theirs!r}: '
                'the config must name classes that the file has, in the order of the file'
            )


def _reason_to_leave_out(
    annotation: dict, path: str, sizes: dict[Any, tuple[int, int]], named: dict[Any, bool], masks: bool
) -> str | None:
    """Why MMDetection leaves an annotation out, if it does."""
    size = sizes.get(annotation['image_id'])
    if size is None:
        return 'are left out, being of images that the file does not have'
    if annotation['category_id'] not in named:
        return 'are left out, being of categories that the file does not have'
    if annotation.get('ignore'):
        return 'are left out, as they say themselves'
    crowd = annotation.get('iscrowd', 0)
    if crowd not in (0, 1):
        raise DataError(f'{path}: iscrowd of annotation {annotation["id"]} must be 0 or 1, got {crowd!r}')
    try:
        x, y, width, height = annotation['bbox']
        sound = isfinite(x + y + width + height + annotation['area'])
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise DataError(
            f'{path}: bbox of annotation {annotation["id"]} must be four finite numbers, and area one, '
            f'got {annotation["bbox"]} and {annotation["area"]}'
        )
    outside = x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0
    if outside or width < 1 or height < 1 or annotation['area'] <= 0:
        return 'have boxes without area or outside of their image: training leaves them out, evaluation counts them'
    if not named[annotation['category_id']]:
        return 'are left out, being of categories that the config does not name'
    return _reason_of_mask(annotation, path, size) if masks else None


def _reason_of_mask(annotation: dict, path: str, size: tuple[int, int]) -> str | None:
    segmentation = annotation.get('segmentation')
    problem = None
    try:
        if isinstance(segmentation, dict):
            height, width = segmentation['size']
            counts = segmentation['counts']
            if (width, height) != size:
                problem = f'is for {width}x{height} pixels and its image has {size[0]}x{size[1]}'
            elif not isinstance(counts, (list, str)):
                problem = 'is no run-length code'
            elif (pixels := sum(counts if isinstance(counts, list) else _runs(counts))) != width * height:
                problem = f'counts {pixels} pixels and its image has {width * height}'
        elif segmentation:
            polygons = [each for each in segmentation if len(each) % 2 == 0 and len(each) >= 6]
            if not polygons:
                return 'are left out, their polygons having fewer than three corners'
            # Far outside: the sum tells, where no numbers of both signs cancel. pycocotools crashes on such polygons.
            if not all(abs(sum(each)) < 100 * len(each) * max(size) for each in polygons):
                problem = 'has numbers that are not finite or lie far outside of its image'
            elif all(_outside(each, *size) for each in polygons):
                problem = 'lies outside of its image'
        else:
            problem = 'is missing, and masks are loaded'
    except (KeyError, TypeError, ValueError):
        problem = 'is neither a list of polygons nor a run-length code'
    if problem:
        raise DataError(f'{path}: segmentation of annotation {annotation["id"]} {problem}')
    return None


def _runs(code: str) -> list[int]:
    """The runs of a compressed code: six bits a character, the sixth says that the number goes on, from the lowest."""
    runs: list[int] = []
    number = shift = 0
    for character in code.encode():
        bits = character - 48
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:  # negative
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))  # from the fourth on, what was added
            number = shift = 0
    return runs


def _outside(polygon: Sequence[float], width: int, height: int) -> bool:
    if 0 < polygon[0] < width and 0 < polygon[1] < height:  # almost always
        return False
    xs, ys = polygon[::2], polygon[1::2]
    return max(xs) <= 0 or min(xs) >= width or max(ys) <= 0 or min(ys) >= height
