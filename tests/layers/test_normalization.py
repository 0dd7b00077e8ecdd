"""Normalisation layers equal those of ``mmcv.cnn.build_norm_layer``."""

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn

from mmacmix.layers.normalization import build_norm


class CoarseNorm(nn.BatchNorm2d):
    def __init__(self, channels, eps=0.1):
        super().__init__(channels, eps)


@pytest.mark.parametrize(
    'norm_cfg',
    [
        dict(type='BN'),
        dict(type='BN', eps=1e-3, momentum=0.01, affine=False),
        dict(type='BN', requires_grad=False),
        dict(type='BN2d', track_running_stats=False),
        dict(type='SyncBN', momentum=None, requires_grad=True),
        dict(type='IN'),
        dict(type='IN', affine=True, requires_grad=False),
        dict(type='IN2d', track_running_stats=True),
        dict(type='LN'),
        dict(type='LN', eps=1e-6, elementwise_affine=False),
        dict(type='GN', num_groups=4),
        dict(type='GN', num_groups=2, eps=1e-3, affine=False),
        dict(type=nn.BatchNorm2d, momentum=0.3),
        dict(type=CoarseNorm),
    ],
)
def test_equals_that_of_mmcv(norm_cfg):
    ours, (_, theirs) = build_norm(norm_cfg, 8), build_norm_layer(norm_cfg, 8)
    assert isinstance(theirs, type(ours)) and repr(ours) == repr(theirs)  # MMEngine subclasses SyncBatchNorm
    own = [(name, parameter.requires_grad) for name, parameter in ours.named_parameters()]
    assert own == [(name, parameter.requires_grad) for name, parameter in theirs.named_parameters()]
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
    if norm_cfg['type'] != 'SyncBN':  # in training on GPUs only
        x = torch.randn(3, 5, 6, 8) if norm_cfg['type'] == 'LN' else torch.randn(3, 8, 5, 6)
        for _ in range(2):
            torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))


@pytest.mark.parametrize('norm_cfg', [dict(type='BatchNorm'), dict(eps=1e-3), dict(type=None), dict(type=3)])
def test_unknown_types_are_refused(norm_cfg):
    with pytest.raises(ValueError, match=r"the type of norm_cfg must be one of \('BN', .*'GN'\) or a class, got \{"):
        build_norm(norm_cfg, 8)
