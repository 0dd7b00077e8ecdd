"""Pictures of what a model sees: input, ground truth and prediction side by side."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmengine.visualization import Visualizer
from torch import Tensor

from .colors import colors_of_classes
from .legend import draw_legend, draw_text
from .quality import as_tensor

_SIDE = 400  # pixels of a panel's longer side
_GAP = 6
_LINE = 48  # of captions and legend: a gallery is usually viewed scaled down
_IGNORED = 255  # in maps to be drawn; no class has it


def draw_gallery(
    samples: Sequence[BaseDataElement],
    visualizer: Visualizer,
    path: str | Path,
    columns: int = 2,
    score_thr: float = 0.3,
    captions: Sequence[str] = (),
    ignore_index: int = 255,
    note: str = '',
) -> None:
    """Draw samples into one PNG, each as input, ground truth and prediction; below them a legend of semantic classes.

    Args:
        samples: What a model returned in an evaluation: ``img_path`` and, in pixels of the original image,
            ``gt_instances`` and ``pred_instances`` of a detector, ``gt_sem_seg`` and ``pred_sem_seg`` of a segmentor.
            What a sample lacks is not drawn.
        visualizer: The host library's own, which knows how to draw such a sample, with its ``dataset_meta``.
        path: The PNG to write.
        columns: Samples side by side. Default: 2.
        score_thr: Predicted objects with lower scores are left out. Default: 0.3.
        captions: A line below each sample. Default: none.
        ignore_index: Label of pixels without a class in the ground truth. Default: 255.
        note: A line below all samples. Default: none.
    """
    artist = type(visualizer)()  # one that keeps no copies of what it draws
    artist.dataset_meta = visualizer.dataset_meta
    panels, present = [], set()
    for index, sample in enumerate(samples):
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        factor = _SIDE / max(image.shape[:2])
        height, width = (round(side * factor) for side in image.shape[:2])
        image = mmcv.imresize(image, (width, height), interpolation='bilinear' if factor < 1 else 'nearest')
        sample = sample.clone()
        for name in ('gt_instances', 'pred_instances'):
            if name in sample:
                setattr(sample, name, _resize(sample.get(name), factor, (height, width)))
        for name in ('gt_sem_seg', 'pred_sem_seg'):
            if name in sample:
                labels = sample.get(name).data
                if name == 'gt_sem_seg':
                    labels = labels.masked_fill(labels == ignore_index, _IGNORED)
                setattr(sample, name, PixelData(data=_resize_masks(labels, (height, width))))
        # A detector's names stand beside its objects, a segmentor's in the legend.
        options = dict(pred_score_thr=score_thr) if 'pred_instances' in sample else {}
        if 'pred_sem_seg' in sample or 'gt_sem_seg' in sample:
            options['with_labels'] = False
        row = [image]
        for truth, name in ((True, 'gt'), (False, 'pred')):
            drawn = f'{name}_instances' in sample or f'{name}_sem_seg' in sample
            if drawn:
                with colors_of_classes():
                    artist.add_datasample('', image, sample, draw_gt=truth, draw_pred=not truth, **options)
            row.append(artist.get_image() if drawn else image)
        panel = _join(row, 1, _GAP)
        if captions:
            panel = _join([panel, draw_text(captions[index], panel.shape[1], _LINE)], 0, 0)
        panels.append(panel)
        present |= _classes_in(sample, len(artist.dataset_meta['classes']))
    rows = [_join(panels[first : first + columns], 1, 4 * _GAP) for first in range(0, len(panels), columns)]
    width = max(row.shape[1] for row in rows)
    if present:
        names, colors = (
            [artist.dataset_meta[key][label] for label in sorted(present)] for key in ('classes', 'palette')
        )
        rows.append(draw_legend(names, colors, width, _LINE))
    if note:
        rows.append(draw_text(note, width, _LINE))
    mmcv.imwrite(mmcv.rgb2bgr(_join(rows, 0, _GAP)), str(path))


def _classes_in(sample: BaseDataElement, classes: int) -> set[int]:
    """The classes in a sample's semantic maps."""
    maps = [sample.get(name).data for name in ('gt_sem_seg', 'pred_sem_seg') if name in sample]
    return {label for each in maps for label in each.unique().tolist() if 0 <= label < classes}


def _resize(instances: InstanceData, factor: float, size: Sequence[int]) -> InstanceData:
    """The same objects on a resized image."""
    instances = instances.clone().cpu()
    boxes = instances.bboxes
    instances.bboxes = getattr(boxes, 'tensor', boxes) * factor
    if 'masks' in instances:
        instances.masks = _resize_masks(as_tensor(instances.masks), size).bool()
    return instances


def _resize_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """``(N, H, W)``, N may be 0."""
    resized = F.interpolate(masks[:, None].to('cpu', torch.float32), size=tuple(size), mode='nearest')
    return resized[:, 0].to(masks.dtype)


def _join(images: list[np.ndarray], axis: int, gap: int) -> np.ndarray:
    """Images side by side (axis 1) or below each other (axis 0) on white, with gaps."""
    longest = max(image.shape[1 - axis] for image in images)
    padded = []
    for image in images:
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (0, gap)
        pad[1 - axis] = (0, longest - image.shape[1 - axis])
        padded.append(np.pad(image, pad, constant_values=255))
    return np.concatenate(padded, axis)
