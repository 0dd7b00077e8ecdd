"""Data sets inside wrappers such as ``RepeatDataset`` and ``ConcatDataset``."""

from collections.abc import Iterator


def innermost(dataset: dict | None) -> Iterator[dict]:
    """Yield the config of a data set, or, for a wrapper, those of all data sets inside it; nothing for None."""
    if not dataset:
        return
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for each in inner:
        yield from innermost(each)
