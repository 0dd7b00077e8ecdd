import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

from mmacmix.reporting.class_iou import ClassIoU

CLASSES = ('ground', 'tree', 'car', 'never')


def samples(count):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        truth, predicted = rng.integers(0, 3, (2, 1, 9, 12))
        truth[rng.random(truth.shape) < 0.2] = 255
        sample = SegDataSample()
        sample.gt_sem_seg, sample.pred_sem_seg = (PixelData(data=torch.from_numpy(m)) for m in (truth, predicted))
        found.append(sample)
    return found


def by_definition(found):
    truth, predicted = (
        np.stack([sample.get(name).data.numpy() for sample in found]) for name in ('gt_sem_seg', 'pred_sem_seg')
    )
    counted = truth != 255
    return {
        name: 100
        * ((truth == label) & (predicted == label)).sum()
        / (((truth == label) | (predicted == label)) & counted).sum()
        for label, name in enumerate(CLASSES[:3])
    }


def test_equals_the_definition_and_its_mean_the_hosts_metric():
    found = samples(5)
    iou = ClassIoU(CLASSES, images=5)
    iou.add(found[:2])
    iou.add(found[2:])
    assert iou.compute() == pytest.approx(by_definition(found))
    host = IoUMetric()
    host.dataset_meta = dict(classes=CLASSES)
    host.process({}, [sample.to_dict() for sample in found])
    assert host.evaluate(5)['mIoU'] == pytest.approx(np.mean(list(iou.compute().values())), abs=0.01)


def test_an_image_that_fills_the_last_round_counts_once(monkeypatch):
    found = samples(3)
    monkeypatch.setattr('mmacmix.reporting.class_iou.get_world_size', lambda: 2)
    shares = [found[0::2], [found[1], found[0]]]  # the second process gets the first image again
    areas = 0
    for rank, share in enumerate(shares):
        monkeypatch.setattr('mmacmix.reporting.class_iou.get_rank', lambda rank=rank: rank)
        iou = ClassIoU(CLASSES, images=3)
        iou.add(share)
        areas = areas + iou._areas
    iou._areas = areas
    assert iou.compute() == pytest.approx(by_definition(found))
