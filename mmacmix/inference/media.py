"""Images and videos, and what is no image."""

import glob
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from PIL import Image

from ..errors import UserError

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


class MediumError(UserError):
    """An image or video cannot be read or written."""


class Medium(NamedTuple):
    """An image or a video."""

    path: Path
    name: str  # what is made of it is called so, without suffix; may hold folders; no two have the same
    is_video: bool

    def frames(self) -> Iterator[np.ndarray]:
        """The image, or the video's images one by one: ``(H, W, 3)`` uint8, BGR.

        Raises:
            MediumError: It can't be read.
        """
        if not self.is_video:
            yield read_image(self.path)
            return
        frames = (frame for frame in mmcv.VideoReader(str(self.path)))  # asked for an iterator again, it would rewind
        first = next(frames, None)
        if first is None:
            raise MediumError(f'{self.path} cannot be read as a video')
        yield first
        yield from frames

    def __len__(self) -> int:
        """The number of frames, as far as the file tells it."""
        return max(1, mmcv.VideoReader(str(self.path)).frame_cnt) if self.is_video else 1


def find_media(inputs: Sequence[str], without: Path | None = None) -> list[Medium]:
    """The images and videos that inputs stand for, each of them once.

    Args:
        inputs: Files, folders (with all folders in them; other files there are passed over) or patterns.
        without: A folder inside of these that is passed over, the one that is written to. Default: none.

    Raises:
        UserError: An input stands for nothing.
    """
    media: dict[Path, Medium] = {}
    names: set[str] = set()
    for given in inputs:
        found = list(_files(given))
        if without:
            found = [item for item in found if not item[0].resolve().is_relative_to(without.resolve())]
        if not found:
            what = 'holds no image or video' if Path(given).is_dir() else 'is not there'
            raise UserError(f'{given} {what}')
        for path, name in found:
            if path.resolve() not in media:
                unique = next(each for each in _names(path, name) if each not in names)
                names.add(unique)
                media[path.resolve()] = Medium(path, unique, path.suffix.lower() in VIDEOS)
    return list(media.values())


def _names(path: Path, name: str) -> Iterator[str]:
    """What the outputs of a file may be called: ``drive``, ``drive_avi``, ``drive_avi_2``..."""
    yield name
    name += path.suffix.replace('.', '_')
    yield name
    yield from (f'{name}_{number}' for number in count(2))


def _files(given: str) -> Iterator[tuple[Path, str]]:
    """Files, and what their outputs are called."""
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
    """``(H, W, 3)`` uint8, BGR, turned as its EXIF data say.

    Raises:
        MediumError: The file is not a whole image.
    """
    try:
        with Image.open(path) as image:
            image.load()  # OpenCV, which reads as training does, tells no reason
        array = mmcv.imread(str(path))
    except Exception as error:  # of many kinds
        raise MediumError(f'{path} cannot be read as an image: {error}') from error
    if array is None:
        raise MediumError(f'{path} cannot be read as an image')
    return array
