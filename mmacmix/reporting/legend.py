"""What a picture says in words: the key to its colours, a caption."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LINE = 24  # pixels
_PAD = 6


def draw_legend(names: Sequence[str], colors: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """A coloured square and a name for each entry, in as many lines as they need.

    Args:
        names: What the colours stand for.
        colors: RGB, 0 to 255.
        width: Pixels; an entry that is longer is cut off.

    Returns:
        ``(H, width, 3)`` uint8, RGB, on white.
    """
    font = _font()
    places, x, y = [], _PAD, 0
    for name in names:
        length = _LINE + round(font.getlength(name)) + 2 * _PAD
        if x + length > width and x > _PAD:
            x, y = _PAD, y + _LINE
        places.append((x, y))
        x += length
    image = Image.new('RGB', (width, y + _LINE), 'white')
    draw = ImageDraw.Draw(image)
    for name, color, (x, y) in zip(names, colors, places, strict=False):
        draw.rectangle((x, y + _PAD, x + _LINE - 2 * _PAD, y + _LINE - _PAD), tuple(color), 'black')
        draw.text((x + _LINE - _PAD, y + _LINE // 2), name, 'black', font, anchor='lm')
    return np.asarray(image)


def add_legend(image: np.ndarray, names: Sequence[str], colors: Sequence[Sequence[int]]) -> np.ndarray:
    """An RGB image with ``draw_legend`` below it; as it is where there are no names."""
    if not names:
        return image
    return np.concatenate((image, draw_legend(names, colors, image.shape[1])))


def draw_text(text: str, width: int) -> np.ndarray:
    """One line, cut off where it is longer: ``(H, width, 3)`` uint8, black on white."""
    image = Image.new('RGB', (width, _LINE), 'white')
    ImageDraw.Draw(image).text((_PAD, _LINE // 2), text, 'black', _font(), anchor='lm')
    return np.asarray(image)


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(_LINE - 2 * _PAD + 2)
