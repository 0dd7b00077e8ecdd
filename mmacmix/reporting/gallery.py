"""Galleries: input, ground truth and prediction side by side."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch.nn.functional as F
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmengine.visualization import Visualizer
from torch import Tensor

from .legend import colors_of_classes, draw_legend, draw_text
from .quality import as_tensor

_SIDE = 400  # longer side of a panel in pixels
_GAP = 6
_LINE = 48  # height of captions and legend: a gallery is usually viewed scaled down
INSTANCES = ('gt_instances', 'pred_instances')
MAPS = ('gt_sem_seg', 'pred_sem_seg')


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
    """Draw samples into one PNG, each as input, ground truth and prediction, and a legend of the semantic classes.

    Args:
        samples: Outputs of a model in an evaluation: ``img_path`` and, in pixels of the original image,
            ``gt_instances`` and ``pred_instances`` of a detector, ``gt_sem_seg`` and ``pred_sem_seg`` of a segmentor.
            Missing ones are not drawn.
        visualizer: The host library's visualizer, with its ``dataset_meta``.
        path: The PNG to write.
        columns: Samples per row. Default: 2.
        score_thr: Predicted objects with lower scores are not drawn. Default: 0.3.
        captions: A line below each sample. Default: none.
        ignore_index: Label of ignored pixels in the ground truth. Default: 255.
        note: A line below all samples. Default: none.
    """
    artist = type(visualizer)()  # without backends, which would store every picture
    artist.dataset_meta = visualizer.dataset_meta
    classes = artist.dataset_meta['classes']
    panels, present = [], set()
    for index, sample in enumerate(samples):
        image, sample = _scaled(sample, ignore_index, unused_label=len(classes))
        # Detectors draw names beside their objects; the names of semantic classes are in the legend.
        has_instances = any(name in sample for name in INSTANCES)
        options = dict(pred_score_thr=score_thr) if has_instances else dict(with_labels=False)
        row = [image]
        for source in ('gt', 'pred'):
            if f'{source}_instances' in sample or f'{source}_sem_seg' in sample:
                with colors_of_classes():
                    sides = dict(draw_gt=source == 'gt', draw_pred=source == 'pred')
                    artist.add_datasample('', image, sample, **sides, **options)
                row.append(artist.get_image())
            else:
                row.append(image)
        panel = _joined(row, 1, _GAP)
        if captions:
            panel = _joined([panel, draw_text(captions[index], panel.shape[1], _LINE)], 0, 0)
        panels.append(panel)
        for labels in (sample.get(name).data for name in MAPS if name in sample):
            present.update(label for label in labels.unique().tolist() if 0 <= label < len(classes))
    rows = [_joined(panels[first : first + columns], 1, 4 * _GAP) for first in range(0, len(panels), columns)]
    width = max(row.shape[1] for row in rows)
    if present:
        palette = artist.dataset_meta['palette']
        names, colors = zip(*((classes[label], palette[label]) for label in sorted(present)), strict=True)
        rows.append(draw_legend(names, colors, width, _LINE))
    if note:
        rows.append(draw_text(note, width, _LINE))
    mmcv.imwrite(mmcv.rgb2bgr(_joined(rows, 0, _GAP)), str(path))


def _scaled(sample: BaseDataElement, ignore_index: int, unused_label: int) -> tuple[np.ndarray, BaseDataElement]:
    """The image and a copy of its sample at the size of a panel; ignored pixels get a label that is not drawn."""
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    factor = _SIDE / max(image.shape[:2])
    height, width = size = tuple(round(side * factor) for side in image.shape[:2])
    image = mmcv.imresize(image, (width, height), interpolation='bilinear' if factor < 1 else 'nearest')
    sample = sample.clone().cpu()
    for name in INSTANCES:
        if name in sample:
            _scale_instances(sample.get(name), factor, size)
    for name in MAPS:
        if name in sample:
            labels = sample.get(name).data.long()
            if name == 'gt_sem_seg':
                labels = labels.masked_fill(labels == ignore_index, unused_label)
            sample.set_data({name: PixelData(data=_scaled_masks(labels, size))})
    return image, sample


def _scale_instances(instances: InstanceData, factor: float, size: tuple[int, int]) -> None:
    boxes = instances.bboxes
    instances.bboxes = getattr(boxes, 'tensor', boxes) * factor
    if 'masks' in instances:
        instances.masks = _scaled_masks(as_tensor(instances.masks), size).bool()


def _scaled_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """``(N, H, W)``; N may be 0."""
    return F.interpolate(masks[:, None].float(), size=size, mode='nearest')[:, 0].to(masks.dtype)


def _joined(images: list[np.ndarray], axis: int, gap: int) -> np.ndarray:
    """Images concatenated horizontally (axis 1) or vertically (axis 0) on white, each followed by a gap."""
    longest = max(image.shape[1 - axis] for image in images)
    padded = []
    for image in images:
        padding = np.zeros((3, 2), int)
        padding[axis, 1] = gap
        padding[1 - axis, 1] = longest - image.shape[1 - axis]
        padded.append(np.pad(image, padding, constant_values=255))
    return np.concatenate(padded, axis)
