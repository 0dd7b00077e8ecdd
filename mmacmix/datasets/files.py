"""Checks that the files of a data set exist."""

import os
from collections.abc import Iterable
from functools import cache

from mmengine.registry import DATASETS

from ..errors import UserError


class DataError(UserError):
    """A file of a data set is unusable; the message is one sentence that names it."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker passes its whole traceback as the message, which ends with the sentence.
        super().__init__(message.rpartition('DataError: ')[2].strip())


def check_files(paths: Iterable[str], source: str) -> None:
    """Raise a ``DataError`` if any of the files named by ``source`` are missing; each folder is listed once."""

    @cache
    def names_in(folder: str) -> set[str]:
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    paths = list(paths)
    missing = [path for path in paths if os.path.basename(path) not in names_in(os.path.dirname(path) or '.')]
    if missing:
        raise DataError(
            f'{missing[0]} does not exist: {len(missing)} of the {len(paths)} files that {source} names are missing'
        )


def check_maps(dataset: dict) -> None:
    """Check that a data set for semantic segmentation has images, each with a label map.

    Args:
        dataset: The config of a data set. Only local ones with label maps are checked.

    Raises:
        DataError: There are no images, or files are missing.
    """
    folders = dataset.get('data_prefix') or {}
    if not isinstance(folders, dict) or not folders.get('seg_map_path') or dataset.get('backend_args'):
        return
    built = DATASETS.build(dict(dataset, lazy_init=True, pipeline=[]))
    items = built.load_data_list()
    if not items:
        raise DataError(f'{built.ann_file or built.data_prefix["img_path"]} has no image ending in {built.img_suffix}')
    check_files((item[key] for item in items for key in ('img_path', 'seg_map_path')), dataset['type'])
