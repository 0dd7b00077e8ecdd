"""Finding and reading images and videos."""

import glob
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from PIL import Image

from ..errors import UserError, first_line

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


class MediumError(UserError):
    """An image or video cannot be read or written."""


class Medium(NamedTuple):
    """An image or a video."""

    path: Path
    name: str  # of its outputs, without suffix; unique; may contain folders
    is_video: bool

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the image, or the frames of the video: ``(H, W, 3)`` uint8, BGR.

        Raises:
            MediumError: The file cannot be read.
        """
        if not self.is_video:
            yield read_image(self.path)
            return
        frame = None
        for frame in mmcv.VideoReader(str(self.path)):
            yield frame
        if frame is None:
            raise MediumError(f'{self.path} cannot be read as a video')

    def __len__(self) -> int:
        """The number of frames according to the file, at least 1."""
        return max(1, mmcv.VideoReader(str(self.path)).frame_cnt) if self.is_video else 1


def find_media(inputs: Sequence[str], without: Path | None = None) -> list[Medium]:
    """Find images and videos, each once.

    Args:
        inputs: Files, folders (searched recursively for image and video files) or glob patterns.
        without: A folder to skip, such as the output folder. Default: None.

    Raises:
        UserError: An input matches no file.
    """
    media: dict[Path, Medium] = {}
    names: set[str] = set()
    for given in inputs:
        found = list(_files(given))
        if without:
            found = [item for item in found if not item[0].resolve().is_relative_to(without.resolve())]
        if not found:
            raise UserError(f'{given} {"has no image or video" if Path(given).is_dir() else "does not exist"}')
        for path, name in found:
            if path.resolve() not in media:
                longer = name + path.suffix.replace('.', '_')
                candidates = chain([name, longer], (f'{longer}_{number}' for number in count(2)))
                unique = next(each for each in candidates if each not in names)
                names.add(unique)
                media[path.resolve()] = Medium(path, unique, path.suffix.lower() in VIDEOS)
    return list(media.values())


def _files(given: str) -> Iterator[tuple[Path, str]]:
    """The files of an input, with the names of their outputs."""
    path = Path(given)
    if path.is_dir():
        for each in sorted(path.rglob('*')):
            if each.suffix.lower() in (*IMAGES, *VIDEOS) and each.is_file():
                yield each, str(each.relative_to(path).with_suffix(''))
    elif path.exists():
        yield path, path.stem
    else:
        for each in sorted(glob.glob(given, recursive=True)):
            yield from _files(each)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as ``(H, W, 3)`` uint8, BGR, with its EXIF orientation applied.

    Raises:
        MediumError: The file is not a complete image.
    """
    try:
        with Image.open(path) as image:
            image.load()  # OpenCV, which decodes as in training, gives no reasons
        array = mmcv.imread(str(path))
        if array is None:
            raise ValueError('OpenCV cannot decode it')
    except Exception as error:  # depends on the format
        raise MediumError(f'{path} cannot be read as an image: {first_line(error)}') from error
    return array
