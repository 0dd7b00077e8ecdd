"""Files that are either complete or absent."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

BACKEND = 'mmacmix.atomic'  # for MMEngine's ``backend_args=dict(backend=...)``


def write_atomically(content: bytes, path: str | Path) -> None:
    """Write a file under a temporary name, then rename it; missing folders are created.

    Raises:
        OSError: Writing failed, for example because the disk is full. An existing file at ``path`` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')  # a fixed name: a retry overwrites the remains of a killed process
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
    """MMEngine's backend for local files, writing with ``write_atomically``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_atomically(obj, filepath)
