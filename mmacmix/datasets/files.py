"""Files that a data set names."""

import os
from collections import defaultdict
from collections.abc import Iterable

from ..errors import UserError


class DataError(UserError):
    """A file of a data set can't be used; the message is one sentence that names it."""

    def __init__(self, message: str) -> None:
        # A dataloader's worker hands its whole traceback on as the message. The sentence is the end of it.
        super().__init__(message.rpartition('DataError: ')[2].strip())


def check_files(paths: Iterable[str], source: str) -> None:
    """Check that files are there, by one look into each of their folders.

    Args:
        paths: The files.
        source: Who names them, for the message.

    Raises:
        DataError: Some are missing.
    """
    names = defaultdict(list)
    for path in paths:
        folder, name = os.path.split(path)
        names[folder].append(name)
    missing = []
    for folder, wanted in names.items():
        there = {entry.name for entry in os.scandir(folder or '.')} if os.path.isdir(folder or '.') else set()
        missing += [os.path.join(folder, name) for name in wanted if name not in there]
    if missing:
        total = sum(map(len, names.values()))
        raise DataError(f'{missing[0]} is not there: {len(missing)} of {total} files that {source} names are missing')
