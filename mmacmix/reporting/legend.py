"""What a picture says in words: the key to its colours, a caption."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LINE = 24  # pixels


def draw_legend(names: Sequence[str], colors: Sequence[Sequence[int]], width: int, line: int = _LINE) -> np.ndarray:
    """A coloured square and a name for each entry, in as many lines as they need.

    Args:
        names: What the colours stand for.
        colors: RGB, 0 to 255.
        width: Pixels; an entry that is longer is cut off.
        line: Height of a line in pixels. Default: 24.

    Returns:
        ``(H, width, 3)`` uint8, RGB, on white.
    """
    font, pad = _font(line), line // 4
    places, x, y = [], pad, 0
    for name in names:
        length = line + round(font.getlength(name)) + 2 * pad
        if x + length > width and x > pad:
            x, y = pad, y + line
        places.append((x, y))
        x += length
    image = Image.new('RGB', (width, y + line), 'white')
    draw = ImageDraw.Draw(image)
    for name, color, (x, y) in zip(names, colors, places, strict=False):
        draw.rectangle((x, y + pad, x + line - 2 * pad, y + line - pad), tuple(color), 'black')
        draw.text((x + line - pad, y + line // 2), name, 'black', font, anchor='lm')
    return np.asarray(image)


def add_legend(image: np.ndarray, names: Sequence[str], colors: Sequence[Sequence[int]]) -> np.ndarray:
    """An RGB image with ``draw_legend`` below it, larger below larger ones; as it is where there are no names."""
    if not names:
        return image
    line = max(_LINE, image.shape[1] // 40)
    return np.concatenate((image, draw_legend(names, colors, image.shape[1], line)))


def draw_text(text: str, width: int, line: int = _LINE) -> np.ndarray:
    """One line, cut off where it is longer: ``(line, width, 3)`` uint8, black on white."""
    image = Image.new('RGB', (width, line), 'white')
    ImageDraw.Draw(image).text((line // 4, line // 2), text, 'black', _font(line), anchor='lm')
    return np.asarray(image)


def _font(line: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(line * 2 // 3)
