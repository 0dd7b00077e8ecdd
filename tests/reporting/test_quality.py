"""Image quality equals panoptic quality or mean IoU, counted by hand."""

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmacmix.reporting import image_quality


def objects(*boxes, labels=None, scores=None, masks=True):
    """Boxes, each filled by its mask, on a map of 10 x 10 pixels."""
    filled = torch.zeros(len(boxes), 10, 10, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(filled, boxes, strict=True):
        mask[top:bottom, left:right] = True
    instances = InstanceData(labels=torch.tensor(labels or [0] * len(boxes)))
    instances.bboxes = torch.tensor(boxes).reshape(-1, 4).float()
    if masks:
        instances.masks = filled
    if scores is not None:
        instances.scores = torch.tensor(scores)
    return instances


def quality(truth, predicted):
    return image_quality(BaseDataElement(gt_instances=truth, pred_instances=predicted))


@pytest.mark.parametrize('masks', [True, False])
def test_quality_for_a_detector_is_the_panoptic_quality(masks):
    truth = objects((0, 0, 4, 4), (5, 5, 9, 9), masks=masks)
    # One match with an IoU of 12/16, one prediction of another class, and one below the score threshold.
    predicted = objects((0, 0, 4, 3), (5, 5, 9, 9), (5, 5, 9, 9), labels=[0, 1, 0], scores=[0.9, 0.8, 0.1], masks=masks)
    assert quality(truth, predicted) == pytest.approx(0.75 / (1 + 1 / 2 + 1 / 2))


def test_higher_scores_are_matched_first_and_each_object_once():
    truth = objects((0, 0, 4, 4))
    predicted = objects((0, 0, 4, 4), (0, 0, 4, 3), scores=[0.5, 0.9])
    assert quality(truth, predicted) == pytest.approx(0.75 / 1.5)


def test_an_iou_of_a_half_is_not_a_match():
    assert quality(objects((0, 0, 4, 4)), objects((0, 0, 4, 2), scores=[0.9])) == 0


def test_images_without_objects_or_ground_truth():
    nothing, something = objects(scores=[]), objects((0, 0, 4, 4), scores=[0.9])
    assert quality(objects(), nothing) is None
    assert quality(objects(), something) == quality(something, nothing) == 0
    assert image_quality(BaseDataElement(pred_instances=something)) is None


@pytest.mark.parametrize('ignore_index', [0, 11, 255])
def test_quality_for_a_segmentor_is_the_mean_iou_of_present_classes(ignore_index):
    truth, predicted = torch.ones(2, 1, 4, 4, dtype=torch.long)
    truth[:, :, 2:], predicted[:, :, 1:] = 3, 3
    truth[:, 0] = ignore_index
    sample = BaseDataElement(gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=predicted))
    assert image_quality(sample, ignore_index=ignore_index) == pytest.approx((3 / 6 + 6 / 9) / 2)
    sample.gt_sem_seg.data = torch.full_like(truth, ignore_index)
    assert image_quality(sample, ignore_index=ignore_index) is None
