"""Files that are whole or not there."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

#: What MMEngine's ``backend_args=dict(backend=...)`` call it.
BACKEND = 'mmacmix.atomic'


@register_backend(BACKEND)
class AtomicFileBackend(LocalBackend):
    """MMEngine's backend for local files, but a file gets its name when all of it is on the disk."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file, in place of one that is there.

        Raises:
            OSError: The disk is full, for example. What was there before still is.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + '.part')  # the same each time: what a killed process leaves is overwritten
        try:
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OSError(error.errno, f'{error.strerror}; what was written before is whole', str(path)) from error
