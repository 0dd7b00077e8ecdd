"""The summary of a config lists its settings, also those of wrapped data sets."""

import pytest
from mmengine.config import Config

from mmacmix.reporting.settings import settings_of
from tests.tooling import ROOT


def test_a_training_config_is_summarised():
    rows = settings_of(Config.fromfile(ROOT / 'configs/shapes/mask-rcnn_acmix-r26_shapes.py'))
    assert rows['model'] == 'MaskRCNN'
    assert rows['backbone'].startswith('ACmixResNet(') and 'depth=26' in rows['backbone']
    assert rows['data'].rstrip('/') == 'CocoDataset in data/shapes'
    assert rows['optimiser'].startswith('AdamW(lr=0.0025')
    assert rows['schedule'].startswith('LinearLR(') and '; CosineAnnealingLR(' in rows['schedule']
    assert rows['starts from'] == 'random weights'
    assert rows['RoI head, mask_head'].startswith('FCNMaskHead(')


@pytest.mark.parametrize(
    'dataset, shown',
    [
        (dict(type='RepeatDataset', times=2, dataset=dict(type='A', data_root='a')), 'A in a'),
        (
            dict(type='ConcatDataset', datasets=[dict(type='A', data_root='a'), dict(type='B', data_root='b')]),
            'A in a; B in b',
        ),
    ],
)
def test_wrapped_data_sets_are_named(dataset, shown):
    assert settings_of(Config(dict(train_dataloader=dict(dataset=dataset))))['data'] == shown


def test_an_empty_config_starts_from_random_weights():
    assert settings_of(Config(dict())) == {'starts from': 'random weights'}


def test_layers_in_a_neck_and_in_place_of_convolutions_are_named():
    pretrained = dict(type='Pretrained', checkpoint='cspnext.pth')
    acmix = dict(type='ACmix', num_heads=2)
    model = dict(
        backbone=dict(
            type='ReplaceConvs', network=dict(type='CSPNeXt', init_cfg=pretrained), where='stage4', layer=acmix
        ),
        neck=[dict(type='FPN', num_outs=5), dict(type='ACmixNeck', layer=acmix)],
    )
    assert settings_of(Config(dict(model=model))) == {
        'backbone': 'ReplaceConvs(network=CSPNeXt(), where=stage4, layer=ACmix(num_heads=2))',
        'neck': 'FPN(num_outs=5); ACmixNeck(layer=ACmix(num_heads=2))',
        'starts from': 'Pretrained(checkpoint=cspnext.pth)',
    }
