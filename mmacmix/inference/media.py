"""Images and videos, and what is no image."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from PIL import Image

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


class Medium(NamedTuple):
    """An image or a video."""

    path: Path
    name: str  # what is made of it is called so, without suffix; may hold folders; no two have the same
    is_video: bool

    def frames(self) -> Iterator[np.ndarray]:
        """The image, or the video's images one by one: ``(H, W, 3)`` uint8, BGR.

        Raises:
            ValueError: It can't be read.
        """
        if not self.is_video:
            yield read_image(self.path)
            return
        frames = (frame for frame in mmcv.VideoReader(str(self.path)) if frame is not None)
        first = next(frames, None)
        if first is None:
            raise ValueError(f'{self.path} cannot be read as a video')
        yield first
        yield from frames

    def __len__(self) -> int:
        """The number of frames, as far as the file tells it."""
        return max(1, mmcv.VideoReader(str(self.path)).frame_cnt) if self.is_video else 1


def find_media(inputs: Sequence[str]) -> list[Medium]:
    """The images and videos that inputs stand for, each of them once.

    Args:
        inputs: Files, folders (with all folders in them; other files there are passed over) or patterns.

    Raises:
        ValueError: An input stands for nothing.
    """
    media: dict[Path, Medium] = {}
    names: set[str] = set()
    for given in inputs:
        found = list(_files(given))
        if not found:
            what = 'holds no image or video' if Path(given).is_dir() else 'is not there'
            raise ValueError(f'{given} {what}')
        for path, name in found:
            if path in media:
                continue
            unique, number = name, 1
            while unique in names:
                number += 1
                unique = f'{name}_{number}'
            names.add(unique)
            media[path] = Medium(path, unique, path.suffix.lower() in VIDEOS)
    return list(media.values())


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
        ValueError: The file is not a whole image.
    """
    try:
        with Image.open(path) as image:
            image.load()  # OpenCV, which reads as training does, tells no reason
        array = mmcv.imread(str(path))
    except Exception as error:  # of many kinds
        raise ValueError(f'{path} cannot be read as an image: {error}') from error
    if array is None:
        raise ValueError(f'{path} cannot be read as an image')
    return array
