"""A generated data set of textured shapes: small enough to train on a CPU, hard enough to need a detector.

A class combines a shape and a texture, so neither an outline nor a patch identifies it, and colours carry no
information. Objects are 16 to 72 pixels wide and occlude each other; an image has none, a few or a crowd of them on a
textured background.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from .coco import coco_mask

SHAPES = ('disc', 'square', 'triangle')
TEXTURES = ('plain', 'striped')
CLASSES = tuple(f'{texture} {shape}' for shape in SHAPES for texture in TEXTURES)
PALETTE = ((230, 60, 60), (250, 170, 60), (60, 130, 230), (80, 220, 230), (70, 170, 70), (190, 90, 220))
SEMANTIC_CLASSES = ('background', *CLASSES)
SEMANTIC_PALETTE = ((90, 90, 90), *PALETTE)

_MIN_VISIBLE = 0.5  # share of an object's pixels; an object that would hide more of another is not drawn
_MIN_PIXELS = 60  # visible pixels of an object
_RADIUS = (8.0, 36.0)  # pixels


class Scene(NamedTuple):
    """A generated image and its annotations."""

    image: np.ndarray  # (size, size, 3) uint8, RGB
    labels: np.ndarray  # (objects,) int64, index into CLASSES
    masks: np.ndarray  # (objects, size, size) bool, visible pixels

    @property
    def semantic(self) -> np.ndarray:
        """Label map, ``(size, size)`` uint8: 0 for unlabelled (unused), 1 for background, ``2 + label`` for objects."""
        semantic = np.ones(self.image.shape[:2], np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            semantic[mask] = 2 + label
        return semantic


def draw_scene(rng: np.random.Generator, size: int = 128) -> Scene:
    """Draw one image.

    Args:
        rng: Random generator, whose state determines the image.
        size: Side of the image in pixels. Default: 128.
    """
    image = _background(rng, size)
    ground = image.mean((0, 1))
    labels: list[int] = []
    masks: list[np.ndarray] = []
    areas: list[int] = []  # before occlusion
    for _ in range(_object_count(rng)):
        label, window, alpha, colors = _object(rng, size, ground)
        mask = np.zeros((size, size), bool)
        mask[window] = alpha > 0.5
        visible = [*(other & ~mask for other in masks), mask]
        whole = [*areas, mask.sum()]
        if any(part.sum() < max(_MIN_PIXELS, _MIN_VISIBLE * area) for part, area in zip(visible, whole, strict=True)):
            continue
        image[window] += (colors - image[window]) * alpha[..., None]
        labels.append(label)
        masks, areas = visible, whole
    image = image + rng.normal(0, 4, image.shape)
    return Scene(
        np.clip(np.rint(image), 0, 255).astype(np.uint8),
        np.array(labels, np.int64),
        np.array(masks, bool).reshape(-1, size, size),
    )


def write_shapes(
    root: str | Path, train: int = 2000, val: int = 200, size: int = 128, seed: int = 0, yolo: bool = False
) -> dict[str, int]:
    """Write the data set: PNG images, COCO instance annotations, and semantic label maps of the same images.

    The files are ``images/{train,val}/*.png``, ``annotations/instances_{train,val}.json`` and
    ``semantic/{train,val}/*.png``; those of an earlier call are replaced. Label maps follow ADE20K: 0 is unlabelled
    (unused), 1 the background, and ``CLASSES`` start at 2. Equal arguments write equal files, and a larger split
    starts with the images of a smaller one.

    With ``yolo``, Ultralytics can train on the folder, too: the boxes are also written to ``labels/{train,val}/*.txt``,
    and ``yolo.yaml`` describes the data set.

    Args:
        root: Output folder, created if missing.
        train: Number of training images. Default: 2000.
        val: Number of validation images. Default: 200.
        size: Side of the images in pixels, at least 64. Default: 128.
        seed: Random seed. Default: 0.
        yolo: Write labels for Ultralytics, too. Default: False.

    Returns:
        The number of objects in each split.

    Raises:
        UserError: A number is out of range.
    """
    from PIL import Image

    for name, number, least in (('train', train, 1), ('val', val, 1), ('size', size, 64), ('seed', seed, 0)):
        if not isinstance(number, int) or number < least:
            raise UserError(f'{name} must be an integer of at least {least}, got {number!r}')
    root = Path(root)
    objects = {}
    for split_index, (split, count) in enumerate((('train', train), ('val', val))):
        folders = [root / kind / split for kind in ('images', 'semantic')]
        for folder in (*folders, root / 'annotations'):
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob(6 * '[0-9]' + '.png'):
                stale.unlink()
        images, annotations = [], []
        for index in range(count):
            scene = draw_scene(np.random.default_rng((seed, split_index, index)), size)
            name = f'{index:06d}.png'
            Image.fromarray(scene.image).save(folders[0] / name)
            Image.fromarray(scene.semantic).save(folders[1] / name)
            images.append(dict(id=index, file_name=name, width=size, height=size))
            for label, mask in zip(scene.labels.tolist(), scene.masks, strict=True):
                ids = dict(id=len(annotations) + 1, image_id=index, category_id=label + 1)
                annotations.append(dict(**ids, iscrowd=0, **coco_mask(mask)))
        content = dict(
            info=dict(description='mmacmix shapes', seed=seed),
            categories=[dict(id=index, name=name) for index, name in enumerate(CLASSES, 1)],
            images=images,
            annotations=annotations,
        )
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
        objects[split] = len(annotations)
        for stale in (root / 'labels' / split).glob(6 * '[0-9]' + '.txt'):
            stale.unlink()
        if yolo:
            _write_labels(root / 'labels' / split, images, annotations)
    (root / 'yolo.yaml').unlink(missing_ok=True)
    if yolo:
        content = dict(path=str(root.resolve()), train='images/train', val='images/val', names=list(CLASSES))
        (root / 'yolo.yaml').write_text(json.dumps(content, indent=2))  # JSON is YAML
    return objects


def _write_labels(folder: Path, images: list[dict], annotations: list[dict]) -> None:
    """Write a text file per image: per object its class, and its box's centre and size as shares of the image's."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[int, list[str]] = {image['id']: [] for image in images}
    for annotation in annotations:
        left, top, width, height = annotation['bbox']
        side = images[annotation['image_id']]['width']
        box = (each / side for each in (left + width / 2, top + height / 2, width, height))
        label = annotation['category_id'] - 1
        lines[annotation['image_id']].append(' '.join([str(label), *(f'{each:.6f}' for each in box)]) + '\n')
    for image in images:
        (folder / image['file_name']).with_suffix('.txt').write_text(''.join(lines[image['id']]))


def _object_count(rng: np.random.Generator) -> int:
    """No objects in 5% of the images, a crowd in 10%, a few otherwise."""
    kind = rng.random()
    if kind < 0.05:
        return 0
    return int(rng.integers(10, 15)) if kind < 0.15 else int(rng.integers(2, 8))


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two colours blended by smooth noise of several scales, with a weak grating on top."""
    mix = sum(weight * _smooth_noise(rng, size, cells) for cells, weight in ((2, 0.5), (5, 0.3), (12, 0.2)))
    low = rng.uniform(50, 205, 3)
    high = low + rng.uniform(-50, 50, 3)
    ys, xs = np.mgrid[:size, :size]
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 20)
    grating = np.sin((xs * np.cos(angle) + ys * np.sin(angle)) * 2 * np.pi / period)
    return low + (high - low) * mix[..., None] + rng.uniform(0, 8) * grating[..., None]


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Value noise, ``(size, size)`` in [0, 1]: random values on a grid with smoothstep interpolation."""
    corners = rng.random((cells + 1, cells + 1))
    position = np.linspace(0, cells, size, endpoint=False)
    cell = position.astype(int)
    weight = position - cell
    weight = weight * weight * (3 - 2 * weight)
    rows = corners[cell] * (1 - weight)[:, None] + corners[cell + 1] * weight[:, None]
    return rows[:, cell] * (1 - weight) + rows[:, cell + 1] * weight


def _object(
    rng: np.random.Generator, size: int, ground: np.ndarray
) -> tuple[int, tuple[slice, slice], np.ndarray, np.ndarray]:
    """An object's label, its window in the image, and its opacity (0 to 1) and colours in that window."""
    label = int(rng.integers(len(CLASSES)))
    shape, texture = SHAPES[label // len(TEXTURES)], TEXTURES[label % len(TEXTURES)]
    radius = np.exp(rng.uniform(*np.log(_RADIUS)))
    center = rng.uniform(0.12, 0.88, 2) * size
    angle = rng.uniform(-0.4, 0.4)
    reach = 1.6 * radius + 1  # to a triangle's corners
    x, y = (slice(max(0, int(middle - reach)), min(size, int(middle + reach) + 1)) for middle in center)
    ys, xs = np.mgrid[y, x] + 0.5 - center[::-1, None, None]
    us, vs = xs * np.cos(angle) + ys * np.sin(angle), ys * np.cos(angle) - xs * np.sin(angle)
    distance = _distance_to_edge(shape, us, vs, radius)
    color = _contrasting(rng, ground)
    colors = np.broadcast_to(color, (*us.shape, 3))
    if texture == 'striped':
        tilt, period = rng.uniform(0, np.pi), rng.uniform(5, 7) + radius / 12
        wave = np.sin((us * np.cos(tilt) + vs * np.sin(tilt)) * 2 * np.pi / period)
        contrast = rng.uniform(80, 140) * (
            1 if color.mean() < 128 else -1
        )  # light stripes on dark objects, and vice versa
        colors = color + contrast * np.clip(0.5 + 2 * wave, 0, 1)[..., None]
    return label, (y, x), np.clip(0.5 - distance, 0, 1), colors


def _contrasting(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """A random colour that contrasts with the background."""
    while True:
        color = rng.uniform(10, 245, 3)
        if abs(color - ground).max() > 70:
            return color


def _distance_to_edge(shape: str, us: np.ndarray, vs: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance in pixels, negative inside; shapes of equal radius have similar areas."""
    if shape == 'disc':
        return np.hypot(us, vs) - radius
    if shape == 'square':
        return np.maximum(abs(us), abs(vs)) - radius * 0.89
    turns = np.pi / 2 + np.arange(3) * 2 * np.pi / 3  # one corner up
    return np.max([us * np.cos(turn) + vs * np.sin(turn) for turn in turns], axis=0) - radius * 0.78
