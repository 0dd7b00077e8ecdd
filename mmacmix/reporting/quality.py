"""Quality of the prediction for one image."""

from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor


def image_quality(sample: BaseDataElement, score_thr: float = 0.3, ignore_index: int = 255) -> float | None:
    """One number from 0 to 1 to sort images by.

    For a detector the panoptic quality (Kirillov et al., arXiv 1801.00868, equation 1): the sum of the IoU of all
    matches, divided by the number of matches plus half of the unmatched objects and predictions. A prediction matches
    an object of its class if their IoU is above 0.5; predictions with higher scores are matched first. The IoU is that
    of the masks, or of the boxes if there are no masks. For a segmentor the mean IoU of the classes that are in the
    image or predicted.

    Args:
        sample: ``gt_instances`` and ``pred_instances``, or ``gt_sem_seg`` and ``pred_sem_seg``.
        score_thr: Predicted objects with lower scores are ignored. Default: 0.3.
        ignore_index: Label of ignored pixels. Default: 255.

    Returns:
        None without ground truth, or if neither ground truth nor prediction contains anything.
    """
    if 'gt_sem_seg' in sample and 'pred_sem_seg' in sample:
        return _mean_iou(sample.pred_sem_seg.data.squeeze().cpu(), sample.gt_sem_seg.data.squeeze().cpu(), ignore_index)
    if 'gt_instances' in sample and 'pred_instances' in sample:
        confident = sample.pred_instances.scores >= score_thr
        return _panoptic_quality(sample.pred_instances[confident].cpu(), sample.gt_instances.cpu())
    return None


def _mean_iou(predicted: Tensor, truth: Tensor, ignore_index: int) -> float | None:
    from mmseg.evaluation import IoUMetric

    counted = truth != ignore_index
    if not counted.any():
        return None
    classes = int(max(predicted[counted].max(), truth[counted].max())) + 1
    intersection, union, *_ = IoUMetric.intersect_and_union(predicted, truth, classes, ignore_index)
    return (intersection / union)[union > 0].mean().item()


def _panoptic_quality(predicted: InstanceData, truth: InstanceData) -> float | None:
    if not len(predicted) and not len(truth):
        return None
    matched = []  # IoU of each match
    if len(predicted) and len(truth):
        ious = _ious(predicted, truth)
        ious[(predicted.labels[:, None] != truth.labels).numpy()] = 0
        for row in predicted.scores.argsort(descending=True).tolist():
            best = ious[row].argmax()
            if ious[row, best] > 0.5:
                matched.append(ious[row, best].item())
                ious[:, best] = 0
    return sum(matched) / ((len(predicted) + len(truth)) / 2)


def _ious(predicted: InstanceData, truth: InstanceData) -> np.ndarray:
    """IoU of each prediction with each object."""
    from pycocotools import mask as coco

    if 'masks' in predicted and 'masks' in truth:
        masks = (as_tensor(each.masks).permute(1, 2, 0).numpy() for each in (predicted, truth))
        encoded = [coco.encode(np.asfortranarray(each, np.uint8)) for each in masks]
    else:
        boxes = (getattr(each.bboxes, 'tensor', each.bboxes) for each in (predicted, truth))
        encoded = [torch.cat((each[:, :2], each[:, 2:] - each[:, :2]), 1).double().numpy() for each in boxes]
    return coco.iou(*encoded, [0] * len(truth))


def as_tensor(masks: Any) -> Tensor:
    """``(N, H, W)`` from a tensor, an array, or MMDetection's mask structures."""
    return masks.to_tensor(torch.uint8, 'cpu') if hasattr(masks, 'to_tensor') else torch.as_tensor(masks)
