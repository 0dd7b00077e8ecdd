"""Guards how data sets are found inside wrappers, and that what is done to them reaches each one."""

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from mmacmix.datasets import checked_items, innermost
from mmacmix.datasets.items import CheckedPipeline
from tests.tooling import ROOT, load

A, B, C = (dict(type='CocoDataset', data_root=name) for name in 'abc')


@pytest.mark.parametrize(
    'dataset, expected',
    [
        (None, []),
        (A, [A]),
        (dict(type='RepeatDataset', times=3, dataset=A), [A]),
        (dict(type='ConcatDataset', datasets=[A, B]), [A, B]),
        (dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=B), A]), [B, A]),
        (dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[A, B, C])), [A, B, C]),
    ],
)
def test_the_innermost_data_sets_are_found_in_order(dataset, expected):
    assert list(innermost(dataset)) == expected


def test_changing_an_innermost_config_changes_the_wrapper():
    wrapper = ConfigDict(type='ConcatDataset', datasets=[A, B])
    for dataset in innermost(wrapper):
        dataset.pipeline = []
    assert all(dataset.pipeline == [] for dataset in wrapper.datasets)


def test_items_of_every_wrapped_data_set_are_checked():
    first, second, third = (BaseDataset(lazy_init=True) for _ in range(3))
    checked_items(ConcatDataset([first, second], lazy_init=True))
    checked_items(RepeatDataset(third, times=2, lazy_init=True))
    assert all(isinstance(each.pipeline, CheckedPipeline) for each in (first, second, third))


@pytest.mark.parametrize('name', ['retinanet/retinanet_acmix-r50_fpn_1x_coco.py', 'upernet_acmix.py'])
def test_test_time_augmentation_reaches_every_data_set(name):
    cfg = Config.fromfile(ROOT / 'configs' / name)
    dataset = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset, dict(dataset, pipeline=[])])
    load('test.py')._augment(cfg, segmentation=cfg.default_scope == 'mmseg')
    for dataset in cfg.test_dataloader.dataset.datasets:
        assert dataset.pipeline == cfg.tta_pipeline and dataset.pipeline[-1].type == 'TestTimeAug'
