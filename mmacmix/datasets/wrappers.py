"""Data sets inside wrappers such as ``RepeatDataset`` and ``ConcatDataset``."""

from collections.abc import Iterator


def innermost(dataset: dict | None) -> Iterator[dict]:
    """The configs of the data sets inside a data set's config: itself, unless it is a wrapper; none of None."""
    if not dataset:
        return
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for each in inner:
        yield from innermost(each)
