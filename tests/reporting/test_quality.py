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
def test_of_a_detector_it_is_the_panoptic_quality(masks):
    truth = objects((0, 0, 4, 4), (5, 5, 9, 9), masks=masks)
    # One match of IoU 12/16, one prediction of another class, one unsure one that does not count.
    predicted = objects((0, 0, 4, 3), (5, 5, 9, 9), (5, 5, 9, 9), labels=[0, 1, 0], scores=[0.9, 0.8, 0.1], masks=masks)
    assert quality(truth, predicted) == pytest.approx(0.75 / (1 + 1 / 2 + 1 / 2))


def test_the_surer_prediction_chooses_first_and_an_object_is_matched_once():
    truth = objects((0, 0, 4, 4))
    predicted = objects((0, 0, 4, 4), (0, 0, 4, 3), scores=[0.5, 0.9])
    assert quality(truth, predicted) == pytest.approx(0.75 / 1.5)


def test_half_an_overlap_is_no_match():
    assert quality(objects((0, 0, 4, 4)), objects((0, 0, 4, 2), scores=[0.9])) == 0


def test_images_with_nothing_in_them():
    nothing, something = objects(scores=[]), objects((0, 0, 4, 4), scores=[0.9])
    assert quality(objects(), nothing) is None
    assert quality(objects(), something) == quality(something, nothing) == 0
    assert image_quality(BaseDataElement(pred_instances=something)) is None


def test_of_a_segmentor_it_is_the_mean_iou_of_the_classes_there():
    truth, predicted = torch.zeros(2, 1, 4, 4, dtype=torch.long)
    truth[:, :, 2:], predicted[:, :, 1:] = 3, 3
    truth[:, 0] = 255  # does not count
    sample = BaseDataElement(gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=predicted))
    of_0, of_3 = 3 / 6, 6 / 9
    assert image_quality(sample) == pytest.approx((of_0 + of_3) / 2)
