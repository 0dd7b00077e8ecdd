"""How well a prediction fits one image."""

from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor


def image_quality(sample: BaseDataElement, score_thr: float = 0.3) -> float | None:
    """One number for one image, 0 to 1, to sort images by.

    Of a detector the panoptic quality (Kirillov et al., arXiv 1801.00868, equation 1): the sum of the IoU of all
    matches, over matches plus half of the objects and predictions without one. A prediction matches an object of its
    class when their IoU, of masks where there are some, else of boxes, is above 0.5; surer predictions choose first.
    Of a segmentor the mean IoU of the classes that are in the image or predicted.

    Args:
        sample: ``gt_instances`` and ``pred_instances``, or ``gt_sem_seg`` and ``pred_sem_seg``.
        score_thr: Predicted objects with lower scores don't count. Default: 0.3.

    Returns:
        None where there is no ground truth, or where it is empty and so is the prediction.
    """
    if 'gt_sem_seg' in sample and 'pred_sem_seg' in sample:
        return _mean_iou(sample.pred_sem_seg.data.squeeze().cpu(), sample.gt_sem_seg.data.squeeze().cpu())
    if 'gt_instances' in sample and 'pred_instances' in sample:
        sure = sample.pred_instances.scores >= score_thr
        return _panoptic_quality(sample.pred_instances[sure].cpu(), sample.gt_instances.cpu())
    return None


def _mean_iou(predicted: Tensor, truth: Tensor, ignore_index: int = 255) -> float | None:
    counts = truth != ignore_index
    predicted, truth = predicted[counts], truth[counts]
    ious = []
    for label in torch.cat((predicted, truth)).unique():
        union = (predicted == label) | (truth == label)
        ious.append(((predicted == label) & (truth == label)).sum() / union.sum())
    return torch.stack(ious).mean().item() if ious else None


def _panoptic_quality(predicted: InstanceData, truth: InstanceData) -> float | None:
    if not len(predicted) and not len(truth):
        return None
    total = 0.0
    matched = 0
    if len(predicted) and len(truth):
        masks = 'masks' in predicted and 'masks' in truth
        ious = _mask_iou(predicted.masks, truth.masks) if masks else _box_iou(predicted.bboxes, truth.bboxes)
        ious[predicted.labels[:, None] != truth.labels] = 0
        for row in predicted.scores.argsort(descending=True):
            best = ious[row].argmax()
            if ious[row, best] > 0.5:
                total += ious[row, best].item()
                matched += 1
                ious[:, best] = 0
    return total / (matched + (len(predicted) - matched) / 2 + (len(truth) - matched) / 2)


def _mask_iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """``(P, T)``."""
    predicted, truth = (as_tensor(masks).flatten(1).float() for masks in (predicted, truth))
    intersection = predicted @ truth.T
    union = predicted.sum(1)[:, None] + truth.sum(1) - intersection
    return intersection / union.clamp(min=1)


def as_tensor(masks: Any) -> Tensor:
    """``(N, H, W)`` of a tensor, an array, or one of MMDetection's own kinds of masks."""
    return masks.to_tensor(torch.uint8, 'cpu') if hasattr(masks, 'to_tensor') else torch.as_tensor(masks)


def _box_iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """``(P, T)``."""
    predicted, truth = (getattr(boxes, 'tensor', boxes).float() for boxes in (predicted, truth))
    low = torch.maximum(predicted[:, None, :2], truth[:, :2])
    high = torch.minimum(predicted[:, None, 2:], truth[:, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (predicted, truth)]
    return intersection / (areas[0][:, None] + areas[1] - intersection).clamp(min=1e-6)
