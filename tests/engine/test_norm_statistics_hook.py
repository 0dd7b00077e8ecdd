"""NormStatisticsHook: the first iteration has the statistics of training images, and a resumed one keeps its own."""

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.runner import Runner
from torch import nn

from mmacmix.engine import NormStatisticsHook

IMAGES = 3


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        return dict(inputs=torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index)))


class Network(BaseModel):
    """Its backbone keeps its statistics in training, as with ``norm_eval=True``."""

    def __init__(self):
        super().__init__(ImgDataPreprocessor())
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()

    def forward(self, inputs, data_samples, mode):
        return dict(loss=self.backbone(inputs).mean())


@pytest.fixture
def runner(tmp_path):
    return Runner(
        Network(),
        str(tmp_path),
        train_dataloader=dict(
            batch_size=1, dataset=Images(), sampler=dict(type='DefaultSampler', shuffle=True), num_workers=0
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        custom_hooks=[NormStatisticsHook(batches=IMAGES)],
        default_hooks=dict(logger=None),
        experiment_name=tmp_path.name,
    )


def test_statistics_are_those_of_the_images(runner):
    runner.train()
    conv, norm = runner.model.backbone
    maps = conv(torch.stack([Images()[index]['inputs'] for index in range(IMAGES)])).detach().numpy()
    np.testing.assert_allclose(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    variances = [each.var((1, 2), ddof=1) for each in maps]
    np.testing.assert_allclose(norm.running_var, np.mean(variances, 0), rtol=1e-5)
    assert norm.num_batches_tracked == IMAGES and not norm.training


def test_a_resumed_training_keeps_its_statistics(runner, tmp_path):
    norm = runner.model.backbone[1]
    norm.running_mean.fill_(7)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.train_loop._epoch, runner.train_loop._iter = 1, IMAGES
    runner.save_checkpoint(str(tmp_path), 'resumed.pth')
    runner.load_from, runner._resume = str(tmp_path / 'resumed.pth'), True
    runner.train()
    assert (norm.running_mean == 7).all()
