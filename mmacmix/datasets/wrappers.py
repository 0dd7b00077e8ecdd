"""Data sets around data sets."""


def innermost(dataset: dict) -> dict:
    """The config of the data set inside wrappers such as ``RepeatDataset``."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset
