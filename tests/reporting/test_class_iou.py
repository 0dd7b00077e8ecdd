"""The IoU of each class equals its definition for any ignored label, and its mean equals the host's metric."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmacmix.reporting.class_iou import ClassIoUMetric

CLASSES = ('ground', 'tree', 'car', 'never')


def random_samples(ignore_index):
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(5):
        truth, predicted = rng.integers(0, 3, (2, 1, 9, 12))
        truth[rng.random(truth.shape) < 0.2] = ignore_index
        sample = SegDataSample()
        sample.gt_sem_seg, sample.pred_sem_seg = (PixelData(data=torch.from_numpy(m)) for m in (truth, predicted))
        samples.append(sample)
    return samples


def by_definition(samples, ignore_index):
    truth, predicted = (
        np.stack([sample.get(name).data.numpy() for sample in samples]) for name in ('gt_sem_seg', 'pred_sem_seg')
    )
    counted = truth != ignore_index
    return {
        f'IoU/{name}': 100
        * ((truth == label) & (predicted == label) & counted).sum()
        / (((truth == label) | (predicted == label)) & counted).sum()
        for label, name in enumerate(CLASSES[:3])
    }


@pytest.mark.parametrize('ignore_index', [0, 11, 255])
def test_the_iou_of_each_class_equals_its_definition(ignore_index):
    samples = random_samples(ignore_index)
    metric = ClassIoUMetric(ignore_index=ignore_index)
    metric.dataset_meta = dict(classes=CLASSES)
    for sample in samples:
        metric.process({}, [sample.to_dict()])
    metrics = metric.evaluate(len(samples))
    expected = by_definition(samples, ignore_index)
    assert {name: value for name, value in metrics.items() if name.startswith('IoU/')} == pytest.approx(expected)
    assert metrics['mIoU'] == pytest.approx(np.mean(list(expected.values())), abs=0.01)
