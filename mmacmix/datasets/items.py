"""Checks of images and label maps as they are loaded."""

from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset, Compose
from PIL import Image

from ..errors import first_line
from .files import DataError


class CheckedPipeline(Compose):
    """A data set's pipeline with errors that name the file.

    Besides failing transforms it reports images whose size differs from their annotations', label maps whose size
    differs from their image's, corrupt maps that still decode, labels beyond the classes, and non-finite pixels.

    Args:
        pipeline: The pipeline.
        classes: The number of classes in label maps.
        ignore_index: The label of unlabelled pixels. Default: 255.
    """

    def __init__(self, pipeline: Compose, classes: int, ignore_index: int = 255) -> None:
        super().__init__(pipeline.transforms)
        self._classes = classes
        self._ignore_index = ignore_index

    def __call__(self, data: dict) -> dict | None:
        """Run the pipeline; raise a ``DataError`` if a file is unusable."""
        image, map_path = data.get('img_path'), data.get('seg_map_path')
        annotated = data.get('width'), data.get('height')
        map_size = _size_of_map(map_path) if map_path else None
        try:
            result = super().__call__(data)
        except Exception as error:  # depends on the transform
            raise DataError(f'{image} cannot be used: {type(error).__name__} {first_line(error)}') from error
        if result is None:
            return None
        for inputs in _as_list(result.get('inputs', [])):
            if torch.is_tensor(inputs) and inputs.is_floating_point() and not inputs.isfinite().all():
                raise DataError(f'{image} has pixels that are not finite')
        for sample in _as_list(result.get('data_samples', [])):
            size = tuple(sample.get('ori_shape', ()))[::-1]
            if size and None not in annotated and size != annotated:
                raise DataError(f'{image} is {_text(size)} pixels, but its annotations are for {_text(annotated)}')
            if size and map_size and size != map_size:
                raise DataError(f'{map_path} is {_text(map_size)} pixels, but its image is {_text(size)}')
            if 'gt_sem_seg' in sample:
                self._check_labels(np.asarray(sample.gt_sem_seg.data), map_path)
        return result

    def _check_labels(self, labels: np.ndarray, path: str) -> None:
        wrong = labels[(labels != self._ignore_index) & ((labels < 0) | (labels >= self._classes))]
        if wrong.size:
            raise DataError(f'{path} has label {wrong.max()}, but labels must be 0 to {self._classes - 1}')


def checked_items(dataset: Any) -> None:
    """Make a built data set, or all inside a wrapper, check its items; see ``CheckedPipeline``."""
    if isinstance(dataset, BaseDataset):
        classes = dataset.metainfo.get('classes') or ()
        dataset.pipeline = CheckedPipeline(dataset.pipeline, len(classes), getattr(dataset, 'ignore_index', 255))
        return
    inner = getattr(dataset, 'datasets', None) or ([dataset.dataset] if hasattr(dataset, 'dataset') else [])
    for each in inner:
        checked_items(each)


def _size_of_map(path: str) -> tuple[int, int] | None:
    """Width and height, or None if the file is not local."""
    try:
        with Image.open(path) as image:
            image.verify()  # the checksums of a PNG, which decoding ignores
            return image.size
    except FileNotFoundError:
        return None
    except Exception as error:  # depends on the format
        raise DataError(f'{path} cannot be read: {error}') from error


def _as_list(value: Any) -> list:
    """Test-time augmentation returns lists."""
    return value if isinstance(value, list) else [value]


def _text(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'
