"""What an exported file tells its users about the images that it takes and the classes that it finds."""

from collections.abc import Sequence
from typing import Any


def describe(
    part: str, pipeline: Sequence[dict[str, Any]], classes: Sequence[str], palette: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Metadata for an exported network, all of JSON's types.

    Args:
        part: See ``mmacmix.deploy.exporter.Exportable``.
        pipeline: The config's steps that prepare an image for testing.
        classes: Names of the classes.
        palette: One RGB colour per class.

    Returns:
        ``part``; ``classes``; ``palette``; ``scale``, the width and height to which images are resized before, or None;
        and ``keep_ratio``, whether they are resized to the largest size within ``scale``, or its transpose, that keeps
        their aspect ratio.
    """
    resize = next((step for step in pipeline if step['type'].split('.')[-1] == 'Resize'), {})
    scale = resize.get('scale')
    return dict(
        part=part,
        classes=list(classes),
        palette=[list(map(int, color)) for color in palette],
        scale=[scale, scale] if isinstance(scale, int) else scale and list(scale),
        keep_ratio=bool(resize.get('keep_ratio', False)),
    )
