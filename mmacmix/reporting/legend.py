"""The key to a picture's colours."""

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
    font = ImageFont.load_default(_LINE - 2 * _PAD + 2)
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
