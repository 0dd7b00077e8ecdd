"""Colours of drawn objects."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def colors_of_classes() -> Iterator[None]:
    """While it lasts, MMDetection fills masks with the colours of their classes, those of the legend.

    By itself it takes colours near to them, at random, another one in every picture and every frame of a video.
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
