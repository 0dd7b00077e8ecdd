"""Files that are complete or absent."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

#: The name of the backend in MMEngine's ``backend_args=dict(backend=...)``.
BACKEND = 'mmacmix.atomic'


def write_atomically(content: bytes, path: str | Path) -> None:
    """Write a file that gets its name once all of it is on the disk; its folders are made.

    Raises:
        OSError: The disk is full, for example. A file of that name is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')  # the same each time: what a killed process leaves is overwritten
    try:
        with open(part, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, f'{error.strerror}; earlier files are complete', str(path)) from error


@register_backend(BACKEND)
class AtomicFileBackend(LocalBackend):
    """MMEngine's backend for local files, with ``write_atomically``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file; see ``write_atomically``."""
        write_atomically(obj, filepath)
