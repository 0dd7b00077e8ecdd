"""Images and maps of a data set for semantic segmentation."""

from mmengine.registry import DATASETS

from .files import DataError, check_files


def check_maps(dataset: dict) -> None:
    """Check that a data set for semantic segmentation has images, and a map for each of them.

    Args:
        dataset: The config of any data set; only one with maps, in local files, is looked at.

    Raises:
        DataError: It has no images, or files are missing.
    """
    folders = dataset.get('data_prefix') or {}
    if not folders.get('seg_map_path') or dataset.get('backend_args'):
        return
    built = DATASETS.build(dict(dataset, lazy_init=True, pipeline=[]))
    items = built.load_data_list()
    if not items:
        raise DataError(f'{built.ann_file or built.data_prefix["img_path"]} has no image ending in {built.img_suffix}')
    check_files((item[key] for item in items for key in ('img_path', 'seg_map_path')), dataset['type'])
