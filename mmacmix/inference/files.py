"""Inference from files to files."""

import json
from collections.abc import Sequence
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
    """Write the predictions for images and videos to a folder.

    ``overlays/`` gets images (PNG) and videos (MP4) with the predictions drawn. A detector also writes
    ``predictions.json`` in COCO's format: ``images`` (one per video frame), ``categories`` numbered from 1, and
    ``annotations`` with a ``score`` and, if the detector predicts masks, a ``segmentation``. A segmentor also writes
    ``maps/``, label maps as palette PNGs.

    Args:
        predictor: The network.
        media: From ``mmacmix.inference.find_media``.
        folder: Output folder.
        score_thr: Objects with lower scores are not drawn; ``predictions.json`` has all of them. Default: 0.3.

    Returns:
        A sentence for each file that could not be read completely or on which the network failed.
    """
    problems: list[str] = []
    categories = [dict(id=index, name=name) for index, name in enumerate(predictor.classes, 1)]
    coco: dict[str, list] = dict(images=[], categories=categories, annotations=[])
    progress = ProgressBar(sum(map(len, media)))
    try:
        for medium in media:
            done, frames = progress.completed, len(medium)
            try:
                with closing(_Overlay(folder / 'overlays', medium)) as overlay:
                    for index, image in enumerate(medium.frames()):
                        sample = predictor(image)
                        overlay.add(predictor.draw(image, sample, score_thr, legend=not medium.is_video))
                        if 'pred_instances' in sample:
                            frame = dict(frame=index) if medium.is_video else {}
                            _add_detections(coco, sample, image.shape, file_name=str(medium.path), **frame)
                        else:
                            name = f'{medium.name}/{index:06}' if medium.is_video else medium.name
                            _write_map(folder / 'maps' / f'{name}.png', sample, predictor.palette)
                        progress.update()
                if progress.completed - done < frames:
                    problems.append(f'{medium.path} ends after {progress.completed - done} of {frames} frames')
            except MediumError as error:
                problems.append(str(error))
            except Exception as error:  # a failure on one file must not stop the rest
                problems.append(f'{medium.path}: {type(error).__name__} {error}')
            if progress.completed < done + frames:
                progress.update(done + frames - progress.completed)
    finally:  # keeps the results after an interruption
        if coco['images']:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'predictions.json').write_text(json.dumps(coco))
    return problems


class _Overlay:
    """Writer of an image file or a video."""

    def __init__(self, folder: Path, medium: Medium) -> None:
        self._path = folder / f'{medium.name}{".mp4" if medium.is_video else ".png"}'
        self._rate = (mmcv.VideoReader(str(medium.path)).fps or 25) if medium.is_video else None
        self._video = cv2.VideoWriter()  # opened with the size of the first frame

    def add(self, picture: np.ndarray) -> None:
        if self._rate is None:
            mmcv.imwrite(picture, str(self._path))
            return
        if not self._video.isOpened():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter_fourcc(*'mp4v')
            if not self._video.open(str(self._path), codec, self._rate, picture.shape[1::-1]):
                raise MediumError(f'OpenCV cannot write {self._path}')
        self._video.write(picture)

    def close(self) -> None:
        self._video.release()


def _add_detections(coco: dict[str, list], sample: BaseDataElement, shape: Sequence[int], **image: Any) -> None:
    from pycocotools import mask as mask_api

    image_id = len(coco['images']) + 1
    coco['images'].append(dict(id=image_id, height=shape[0], width=shape[1], **image))
    objects = sample.pred_instances.cpu().numpy()
    for index, (left, top, right, bottom) in enumerate(objects.bboxes.tolist()):
        entry = dict(
            id=len(coco['annotations']) + 1,
            image_id=image_id,
            category_id=int(objects.labels[index]) + 1,
            bbox=[left, top, right - left, bottom - top],
            area=(right - left) * (bottom - top),
            score=float(objects.scores[index]),
            iscrowd=0,
        )
        if 'masks' in objects:
            rle = mask_api.encode(np.asfortranarray(objects.masks[index], dtype=np.uint8))
            entry['area'] = float(mask_api.area(rle))
            entry['segmentation'] = dict(size=rle['size'], counts=rle['counts'].decode())
        coco['annotations'].append(entry)


def _write_map(path: Path, sample: BaseDataElement, palette: Sequence[Sequence[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8))
    image.putpalette([channel for color in palette for channel in color])
    image.save(path)
