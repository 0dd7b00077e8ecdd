"""Guards that a Predictor looks inside wrapped data sets, and where it takes its weights and classes from."""

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmacmix.inference import Predictor


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)


def prediction(sample):
    return sample.pred_instances.bboxes if 'pred_instances' in sample else sample.pred_sem_seg.data


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ConcatDataset'])
def test_wrapped_data_sets_give_the_same_classes_and_predictions(trained, image, wrapper):
    _, config, checkpoint, _ = trained
    cfg = Config.fromfile(config)
    plain = Predictor(cfg, str(checkpoint))
    dataset = cfg.test_dataloader.dataset
    other = dict(dataset, metainfo=dict(classes=('other',)), pipeline=[])  # never used: the first one counts
    inner = dict(datasets=[dataset, other]) if wrapper == 'ConcatDataset' else dict(dataset=dataset, times=2)
    cfg.test_dataloader.dataset = dict(type=wrapper, **inner)
    wrapped = Predictor(cfg, str(checkpoint))
    assert wrapped.classes == plain.classes and wrapped.palette == plain.palette
    expected, found = (prediction(each(image)) for each in (plain, wrapped))
    assert expected.numel() and torch.equal(expected, found)


def test_classes_come_from_the_checkpoint_before_the_config(trained, tmp_path):
    _, config, checkpoint, _ = trained
    saved = torch.load(checkpoint, weights_only=False)
    classes = tuple(f'class {index}' for index in range(7))
    saved['meta']['dataset_meta'] = dict(classes=classes)
    torch.save(saved, tmp_path / 'named.pth')
    assert tuple(Predictor(Config.fromfile(config), str(tmp_path / 'named.pth')).classes) == classes
