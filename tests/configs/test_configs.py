from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmacmix.backbones import ACmixResNet
from mmacmix.datasets import CLASSES, PALETTE
from mmacmix.layers import ACmix

ROOT = Path(__file__).parents[2] / 'configs'
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob('*.py') if '_base_' not in path.parts)
DETECTION = [name for name in CONFIGS if 'mask' in name]


# The same network, narrower, with fewer regions.
SMALL = {
    'model.backbone.base_channels': 8,
    'model.neck.in_channels': [32, 64, 128, 256],
    'model.train_cfg.rpn_proposal.max_per_img': 50,
    'model.train_cfg.rcnn.sampler.num': 16,
    'model.test_cfg.rpn.max_per_img': 20,
}


def load(name, **changes):
    cfg = Config.fromfile(ROOT / name)
    cfg.merge_from_dict(changes)
    init_default_scope(cfg.get('default_scope'))
    return cfg


def build(cfg):
    from mmdet.registry import MODELS

    return MODELS.build(cfg.model)


def test_the_families_are_there():
    family = {
        f'mask_rcnn/mask-rcnn_acmix-r{depth}_fpn_{schedule}_coco.py'
        for depth in (26, 50, 101)
        for schedule in ('1x', 'ms-3x')
    }
    assert {'maskrcnn_acmix.py', 'shapes/mask-rcnn_acmix-r26_shapes.py', *family} <= set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
def test_resolves_and_imports_the_plugin(name):
    cfg = load(name)
    assert cfg.custom_imports == dict(imports=['mmacmix'], allow_failed_imports=False)
    assert cfg.train_dataloader.dataset and cfg.val_evaluator and cfg.optim_wrapper.optimizer


@pytest.mark.parametrize('name', DETECTION)
def test_builds_the_backbone_that_its_name_says(name):
    cfg = load(name)
    model = build(cfg)
    assert isinstance(model.backbone, ACmixResNet)
    depth = 50 if name == 'maskrcnn_acmix.py' else int(name.split('acmix-r')[1].split('_')[0])
    assert [len(getattr(model.backbone, layer)) for layer in model.backbone.res_layers] == list(
        ACmixResNet.arch_settings[depth]
    )
    assert '3x' not in name or cfg.train_dataloader.dataset.times * cfg.train_cfg.max_epochs == 36
    assert model.neck.in_channels == [m.shape[1] for m in _maps(model.backbone)]


def _maps(backbone):
    with torch.no_grad():
        return backbone.eval()(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize('name', DETECTION)
def test_rates_norms_and_positions_take_no_weight_decay(name):
    cfg = load(name, **{'model.backbone.base_channels': 8, 'model.neck.in_channels': [32, 64, 128, 256]})
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decays = {id(group['params'][0]): group['weight_decay'] for group in optimizer.param_groups}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    free = {names[key] for key, decay in decays.items() if decay == 0}
    acmix = [f'{name}.' for name, module in model.named_modules() if isinstance(module, ACmix)]
    wanted = {
        layer + leaf for layer in acmix for leaf in ('attention_rate', 'conv_rate', 'position.weight', 'position.bias')
    }
    norms = {
        f'{name}.{leaf}'
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.InstanceNorm2d))
        for leaf in ('weight', 'bias')
    }
    assert acmix and free == wanted | norms


@pytest.mark.parametrize('name', DETECTION)
def test_one_training_step_and_one_inference(name):
    from mmdet.testing import demo_mm_inputs

    cfg = load(name, **SMALL)
    model = build(cfg)
    model.init_weights()
    inputs = demo_mm_inputs(2, [[3, 96, 128], [3, 65, 97]], num_classes=6, with_mask=True)
    losses, _ = model.parse_losses(model(**model.data_preprocessor(inputs, True), mode='loss'))
    losses.backward()
    assert losses.isfinite()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(inputs, False), mode='predict')
    assert len(results) == 2 and all(len(r.pred_instances.masks) == len(r.pred_instances.scores) for r in results)


def test_shapes_config_names_the_classes_of_the_data_set():
    metainfo = load('shapes/mask-rcnn_acmix-r26_shapes.py').train_dataloader.dataset.metainfo
    assert tuple(metainfo.classes) == CLASSES
    assert tuple(map(tuple, metainfo.palette)) == PALETTE
