"""Legends, captions and the colours of classes in pictures."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LINE = 24  # pixels


def draw_legend(names: Sequence[str], colors: Sequence[Sequence[int]], width: int, line: int = _LINE) -> np.ndarray:
    """A coloured square and a name for each entry, in as many lines as they need.

    Args:
        names: Labels of the colours.
        colors: RGB, 0 to 255.
        width: Width in pixels; a longer entry is cut off.
        line: Height of a line in pixels. Default: 24.

    Returns:
        ``(H, width, 3)`` uint8, RGB, on white.
    """
    font, pad = _font(line), line // 4
    corners, x, y = [], pad, 0
    for name in names:
        length = line + round(font.getlength(name)) + 2 * pad
        if x + length > width and x > pad:
            x, y = pad, y + line
        corners.append((x, y))
        x += length
    image = Image.new('RGB', (width, y + line), 'white')
    draw = ImageDraw.Draw(image)
    for name, color, (x, y) in zip(names, colors, corners, strict=False):
        draw.rectangle((x, y + pad, x + line - 2 * pad, y + line - pad), tuple(color), 'black')
        draw.text((x + line - pad, y + line // 2), name, 'black', font, anchor='lm')
    return np.asarray(image)


def add_legend(image: np.ndarray, names: Sequence[str], colors: Sequence[Sequence[int]]) -> np.ndarray:
    """Append ``draw_legend`` below an RGB image, scaled to its width; without names the image stays as it is."""
    if not names:
        return image
    line = max(_LINE, image.shape[1] // 40)
    return np.concatenate((image, draw_legend(names, colors, image.shape[1], line)))


def draw_text(text: str, width: int, line: int = _LINE) -> np.ndarray:
    """One line of text, cut off at the width: ``(line, width, 3)`` uint8, black on white."""
    image = Image.new('RGB', (width, line), 'white')
    ImageDraw.Draw(image).text((line // 4, line // 2), text, 'black', _font(line), anchor='lm')
    return np.asarray(image)


@contextmanager
def colors_of_classes() -> Iterator[None]:
    """Within the context, MMDetection fills masks with the colours of their classes, as shown in the legend.

    Otherwise it varies them at random, differently in every picture and every frame of a video.
    """
    artist = sys.modules.get('mmdet.visualization.local_visualizer')
    if artist is None:
        yield
        return
    jitter = artist.jitter_color
    artist.jitter_color = tuple
    try:
        yield
    finally:
        artist.jitter_color = jitter


def _font(line: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(line * 2 // 3)
