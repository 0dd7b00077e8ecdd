"""Files in, files out."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.structures import BaseDataElement
from mmengine.utils import ProgressBar
from PIL import Image

from .media import Medium, MediumError
from .predictor import Predictor


def infer(predictor: Predictor, media: Sequence[Medium], folder: Path, score_thr: float = 0.3) -> list[str]:
    """Write what a network finds in images and videos into a folder.

    ``overlays/``: pictures (PNG) and videos (MP4) with the predictions drawn in. Of a detector ``predictions.json``, in
    COCO's format: ``images`` (of a video one a frame), ``categories``, numbered from 1, and ``annotations``, with a
    ``score`` and, where the detector gives masks, a ``segmentation``. Of a segmentor ``maps/``: palette PNGs of each
    pixel's class.

    Args:
        predictor: The network.
        media: From ``mmacmix.inference.find_media``.
        folder: Where to write.
        score_thr: Objects with lower scores are not drawn; ``predictions.json`` has them all. Default: 0.3.

    Returns:
        A sentence for each file that could not be read, or not to its end, or that the network failed on.
    """
    problems, detections = [], _Detections(predictor.classes)
    progress = ProgressBar(sum(map(len, media)))
    try:
        for medium in media:
            done, frames = progress.completed, len(medium)
            try:
                with closing(_Overlays(folder / 'overlays', medium)) as overlays:
                    for index, image in enumerate(medium.frames()):
                        sample = predictor(image)
                        overlays.add(predictor.draw(image, sample, score_thr, legend=not medium.is_video))
                        frame = dict(frame=index) if medium.is_video else {}
                        if 'pred_instances' in sample:
                            detections.add(medium.path, image.shape, sample, frame)
                        else:
                            name = f'{medium.name}/{index:06}' if frame else medium.name
                            _write_map(folder / 'maps' / f'{name}.png', sample, predictor.palette)
                        progress.update()
                if progress.completed - done < frames:
                    problems.append(f'{medium.path} ends after {progress.completed - done} of {frames} frames')
            except MediumError as error:
                problems.append(str(error))
            except Exception as error:  # of any kind: one image must not end the work on all others
                problems.append(f'{medium.path}: {type(error).__name__} {error}')
            if progress.completed < done + frames:
                progress.update(done + frames - progress.completed)
    finally:  # what is there by then is not lost
        if detections.images:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'predictions.json').write_text(json.dumps(detections.as_coco()))
    return problems


class _Overlays:
    """Pictures of one medium: an image file or a video."""

    def __init__(self, folder: Path, medium: Medium) -> None:
        self._path = folder / f'{medium.name}{".mp4" if medium.is_video else ".png"}'
        self._rate = (mmcv.VideoReader(str(medium.path)).fps or 25) if medium.is_video else None
        self._video: cv2.VideoWriter | None = None

    def add(self, picture: np.ndarray) -> None:
        if self._rate is None:
            mmcv.imwrite(picture, str(self._path))
            return
        if self._video is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            kind = cv2.VideoWriter_fourcc(*'mp4v')
            self._video = cv2.VideoWriter(str(self._path), kind, self._rate, picture.shape[1::-1])
            if not self._video.isOpened():
                raise MediumError(f'OpenCV cannot write {self._path}')
        self._video.write(picture)

    def close(self) -> None:
        if self._video is not None:
            self._video.release()


class _Detections:
    """Objects in COCO's format."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._categories = [dict(id=index, name=name) for index, name in enumerate(classes, 1)]
        self.images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, path: Path, shape: Sequence[int], sample: BaseDataElement, frame: dict[str, int]) -> None:
        image = len(self.images) + 1
        self.images.append(dict(id=image, file_name=str(path), height=shape[0], width=shape[1], **frame))
        for entry in _entries(sample):
            self._annotations.append(dict(id=len(self._annotations) + 1, image_id=image, iscrowd=0, **entry))

    def as_coco(self) -> dict[str, list]:
        return dict(images=self.images, categories=self._categories, annotations=self._annotations)


def _entries(sample: BaseDataElement) -> Iterator[dict[str, Any]]:
    from pycocotools import mask as codec

    objects = sample.pred_instances.cpu().numpy()
    for index, (left, top, right, bottom) in enumerate(objects.bboxes.tolist()):
        entry = dict(
            category_id=int(objects.labels[index]) + 1,
            bbox=[left, top, right - left, bottom - top],
            score=float(objects.scores[index]),
        )
        if 'masks' in objects:
            encoded = codec.encode(np.asfortranarray(objects.masks[index], dtype=np.uint8))
            entry['area'] = float(codec.area(encoded))
            entry['segmentation'] = dict(size=encoded['size'], counts=encoded['counts'].decode())
        else:
            entry['area'] = (right - left) * (bottom - top)
        yield entry


def _write_map(path: Path, sample: BaseDataElement, palette: Sequence[Sequence[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8))
    image.putpalette([part for color in palette for part in color])
    image.save(path)
