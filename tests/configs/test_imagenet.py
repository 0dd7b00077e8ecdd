"""Guards the ImageNet configs, and that a detector can start from a trained classifier."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmacmix.datasets.shapes import draw_scene
from mmacmix.reporting.sizes import BACKBONES
from tests.hosts import find_torchvision

find_torchvision()  # for MMPretrain

ROOT = Path(__file__).parents[2] / 'configs'
CONFIGS = sorted(path.stem for path in (ROOT / 'imagenet').glob('*.py'))
SMALL = {
    'ACmixResNet': {'base_channels': 8},
    'ACmixSAN': {'base_channels': 32, 'kernel_sizes': (3, 3, 3, 3, 3)},
    'ACmixSwinTransformer': {'arch': dict(_delete_=True, embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 2))},
    'ACmixPyramidVisionTransformer': {
        'arch': dict(_delete_=True, depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4))
    },
}
CHANNELS = {'ACmixResNet': 256, 'ACmixSAN': 1024, 'ACmixSwinTransformer': 64, 'ACmixPyramidVisionTransformer': 32}


def load(name):
    return Config.fromfile(ROOT / 'imagenet' / f'{name}.py')


def build(cfg):
    init_default_scope(cfg.default_scope)
    registry = importlib.import_module(f'{cfg.default_scope}.registry')
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    model = registry.MODELS.build(cfg.model)
    model.init_weights()
    return model


def small_classifier(name, classes=6):
    cfg = load(name)
    kind = cfg.model.backbone.type
    cfg.merge_from_dict({f'model.backbone.{key}': value for key, value in SMALL[kind].items()})
    cfg.merge_from_dict(
        {
            'model.head.in_channels': CHANNELS[kind],
            'model.head.num_classes': classes,
            'data_preprocessor.num_classes': classes,
        }
    )
    return cfg, build(cfg)


def batch(number=4):
    from mmpretrain.structures import DataSample

    scenes = [draw_scene(np.random.default_rng(seed), 64) for seed in range(number)]
    images = [torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(len(s.labels) % 6) for s in scenes])


def test_every_acmix_backbone_has_a_classifier_config():
    sizes = {load(name).model.backbone.get('arch') or load(name).model.backbone.depth for name in CONFIGS}
    assert len(CONFIGS) == len([name for name in BACKBONES if name.startswith('ACmix')]) == 10
    assert sizes == {26, 38, 50, 10, 15, 19, 'tiny', 'small'}


@pytest.mark.parametrize('name', CONFIGS)
def test_the_recipe_follows_the_kind_of_network(name):
    cfg = load(name)
    transformer = 'swin' in name or 'pvt' in name
    assert cfg.custom_imports == dict(imports=['mmacmix'], allow_failed_imports=False)
    assert cfg.optim_wrapper.optimizer.type == ('AdamW' if transformer else 'SGD')
    assert (cfg.train_cfg.max_epochs, cfg.auto_scale_lr.base_batch_size) == ((300, 1024) if transformer else (90, 256))
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size
    assert any(step.type == 'RandAugment' for step in cfg.train_dataloader.dataset.pipeline) == transformer
    assert cfg.model.backbone.get('norm_eval') is (None if transformer else False)
    assert cfg.model.head.loss.label_smooth_val == 0.1


@pytest.mark.parametrize('name', CONFIGS)
def test_a_small_classifier_trains_and_predicts(name):
    _, model = small_classifier(name)
    losses, _ = model.parse_losses(model(**model.data_preprocessor(batch(), True), mode='loss'))
    losses.backward()
    assert losses.isfinite()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch(2), False), mode='predict')
    assert [len(result.pred_score) for result in results] == [6, 6]


@pytest.mark.parametrize('name', ['acmix-r26_8xb32_in1k', 'acmix-swin-t_8xb128_in1k', 'acmix-pvt-t_8xb128_in1k'])
def test_a_detector_loads_the_backbone_of_a_trained_classifier(name, tmp_path):
    cfg, classifier = small_classifier(name)
    optimizer = build_optim_wrapper(classifier, cfg.optim_wrapper)
    for _ in range(5):
        classifier.train_step(batch(), optimizer)
    torch.save(dict(state_dict=classifier.state_dict()), tmp_path / 'classifier.pth')

    host = {'acmix-r26': 'r26', 'acmix-swin-t': 'swin-t', 'acmix-pvt-t': 'pvt-t'}[name.split('_')[0]]
    schedule = 'ms-crop-1x' if host == 'swin-t' else '1x'
    detector_cfg = Config.fromfile(ROOT / 'mask_rcnn' / f'mask-rcnn_acmix-{host}_fpn_{schedule}_coco.py')
    backbone = dict(cfg.model.backbone, out_indices=(0, 1, 2, 3))
    backbone.pop('final_norm', None)
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'classifier.pth'), prefix='backbone.')
    detector_cfg.model.backbone = dict(backbone, init_cfg=pretrained)
    channels = CHANNELS[cfg.model.backbone.type]
    detector_cfg.model.neck.in_channels = (
        [8, 16, 24, 32] if host == 'pvt-t' else [channels // 8, channels // 4, channels // 2, channels]
    )
    detector = build(detector_cfg)
    ours = detector.backbone.state_dict()
    shared = {name: tensor for name, tensor in classifier.backbone.state_dict().items() if name in ours}
    assert len(shared) >= len(ours) - 6  # one normalisation per stage that the classifier does not return
    for key, tensor in shared.items():
        assert torch.equal(ours[key], tensor), key
