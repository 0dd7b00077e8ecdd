"""Images and maps are checked as they are loaded."""

from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset, Compose
from PIL import Image

from .files import DataError


class CheckedPipeline(Compose):
    """A data set's pipeline, whose errors name the file.

    Beside what its transforms can't do it finds what they would take: images of another size than their annotations,
    maps of another size than their image, broken maps that decode all the same, labels beyond the classes, and pixels
    that are not finite.

    Args:
        pipeline: The pipeline.
        classes: The number of classes; only semantic maps are checked against it.
        ignore_index: The label of pixels that belong to none. Default: 255.
    """

    def __init__(self, pipeline: Compose, classes: int, ignore_index: int = 255) -> None:
        super().__init__(pipeline.transforms)
        self._classes = classes
        self._ignore_index = ignore_index

    def __call__(self, data: dict) -> dict | None:
        """Run it.

        Raises:
            DataError: A file can't be used.
        """
        image, map_path = data.get('img_path'), data.get('seg_map_path')
        annotated = data.get('width'), data.get('height')
        map_size = _size_of_map(map_path) if map_path else None
        try:
            result = super().__call__(data)
        except Exception as error:  # of many kinds, from many places
            reason = str(error).strip().partition('\n')[0]
            raise DataError(f'{image} cannot be used: {type(error).__name__} {reason}') from error
        if result is None:
            return None
        for inputs in _several(result.get('inputs')):
            if torch.is_tensor(inputs) and inputs.is_floating_point() and not inputs.isfinite().all():
                raise DataError(f'{image} has pixels that are not finite')
        for sample in _several(result.get('data_samples')):
            size = tuple(sample.get('ori_shape', ()))[::-1]
            if size and None not in annotated and size != annotated:
                raise DataError(f'{image} is {_by(size)} pixels and its annotations are for {_by(annotated)}')
            if size and map_size and size != map_size:
                raise DataError(f'{map_path} is {_by(map_size)} pixels and its image {_by(size)}')
            if 'gt_sem_seg' in sample:
                self._check_labels(np.asarray(sample.gt_sem_seg.data), map_path)
        return result

    def _check_labels(self, labels: np.ndarray, path: str) -> None:
        labels = labels[labels != self._ignore_index]
        if labels.size and not 0 <= labels.min() <= labels.max() < self._classes:
            wrong = labels.max() if labels.max() >= self._classes else labels.min()
            raise DataError(f'{path} has label {wrong} and the data set {self._classes} classes, from 0')


def checked_items(dataset: Any) -> None:
    """Let a built data set, or those inside of it, name the file that an error comes from."""
    if isinstance(dataset, BaseDataset):
        classes = dataset.metainfo.get('classes') or ()
        dataset.pipeline = CheckedPipeline(dataset.pipeline, len(classes), getattr(dataset, 'ignore_index', 255))
        return
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for each in inner:
        if each is not None:
            checked_items(each)


def _size_of_map(path: str) -> tuple[int, int] | None:
    """Width and height; None of what is no local image."""
    try:
        with Image.open(path) as image:
            size = image.size
            image.verify()  # the checksums of a PNG, which its decoding leaves out
    except FileNotFoundError:  # elsewhere, perhaps
        return None
    except Exception as error:  # of many kinds
        raise DataError(f'{path} cannot be read: {error}') from error
    return size


def _several(value: Any) -> list:
    """Of test-time augmentation there are several."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _by(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'
