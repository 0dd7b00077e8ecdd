"""Guards that every detection and segmentation config resolves, fits its name, trains and predicts."""

import functools
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData

from mmacmix.backbones import ACmixSwinTransformer, XVolutionResNet
from mmacmix.backbones.acmix_pvt import PatchEmbed
from mmacmix.datasets import CLASSES, PALETTE, SEMANTIC_CLASSES, SEMANTIC_PALETTE
from mmacmix.layers import LESA, ACmix, SpatialReductionACmix, WindowACmix
from mmacmix.necks import ACmixNeck

ROOT = Path(__file__).parents[2] / 'configs'
EXCLUDED = {'_base_', 'imagenet'}  # the latter is in test_imagenet.py
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob('*.py') if not EXCLUDED & set(path.parts))
SEGMENTATION = [
    name for name in CONFIGS if 'upernet' in name or 'ade20k' in name or name.startswith(('sem_fpn', 'camvid'))
]
DETECTION = [name for name in CONFIGS if name not in SEGMENTATION]
TRANSFORMERS = [name for name in CONFIGS if name.startswith(('dino', 'mask2former'))]
PLACEMENTS = [name for name in CONFIGS if 'rtmdet' in name or 'yolox' in name]  # ACmix in plain detectors

NETWORKS = {'maskrcnn_acmix.py': 'r50', 'upernet_acmix.py': 'swin-t', 'shapes/upernet_acmix-swin_shapes.py': 'swin'}
BLOCKS = {'swin-t': [2, 2, 6, 2], 'swin-s': [2, 2, 18, 2], 'pvt-t': [2, 2, 2, 2], 'pvt-s': [3, 4, 6, 3]}
PRETRAINED = {'swin-t': 'swin_tiny', 'swin-s': 'swin_small', 'pvt-t': 'pvt_tiny', 'pvt-s': 'pvt_small'}

ALREADY_SMALL = ('shapes', 'ablation', 'mixing', 'warm_start', 'camvid', 'pennfudan')

# Options for narrower and shallower networks without pretrained weights, and the resulting channels.
SMALL = {
    'ACmixResNet': ({'model.backbone.base_channels': 8}, [32, 64, 128, 256]),
    'XVolutionResNet': ({'model.backbone.base_channels': 8}, [32, 64, 128, 256]),
    'LESAResNet': ({'model.backbone.base_channels': 16}, [64, 128, 256, 512]),
    'ACmixSwinTransformer': (
        {
            'model.backbone.arch': dict(_delete_=True, embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 2)),
            'model.backbone.init_cfg': None,
        },
        [8, 16, 32, 64],
    ),
    'ACmixPyramidVisionTransformer': (
        {
            'model.backbone.arch': dict(
                _delete_=True, depths=(1, 2, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4)
            ),
            'model.backbone.init_cfg': None,
        },
        [8, 16, 24, 32],
    ),
}


def network_of(name):
    """The network in a config's name: ``r50`` in ``mask-rcnn_acmix-r50_fpn_1x_coco``."""
    if name.startswith(ALREADY_SMALL):
        return NETWORKS.get(name, 'r50' if name.startswith('pennfudan') else 'r26')
    return NETWORKS.get(name) or re.search('(acmix|xvolution|lesa)-([^_]+)', name)[2]


def load(name, **changes):
    cfg = Config.fromfile(ROOT / name)
    cfg.merge_from_dict(changes)
    init_default_scope(cfg.default_scope)
    for module in cfg.custom_imports.imports:
        importlib.import_module(module)
    return cfg


def load_small(name):
    """The config with a smaller network and heads, as if set by ``--cfg-options``."""
    cfg = load(name)
    model = cfg.model
    model.data_preprocessor.pop('batch_augments', None)  # large images, or as many iterations as a training has made
    if name.startswith(ALREADY_SMALL) or name in PLACEMENTS:
        model.backbone.pop('init_cfg', None)
        return cfg
    options, channels = SMALL[model.backbone.type]
    changes = dict(options)
    if model.backbone.get('depth') == 34:
        channels = [each // 4 for each in channels]
    if 'neck' in model:
        changes['model.neck.in_channels'] = channels[-len(model.neck.in_channels) :]
    elif 'panoptic_head' in model:
        changes['model.panoptic_head.in_channels'] = channels
    elif model.decode_head.type == 'UPerHead':
        changes.update({'model.decode_head.in_channels': channels, 'model.decode_head.channels': 8})
    elif model.decode_head.type == 'Mask2FormerHead':
        changes['model.decode_head.in_channels'] = channels
    elif model.decode_head.type == 'DepthwiseSeparableASPPHead':
        changes.update({'model.decode_head.in_channels': channels[3], 'model.decode_head.c1_in_channels': channels[0]})
    if model.type == 'DINO':
        changes['model.num_queries'] = 20
    if 'auxiliary_head' in model:
        index = model.auxiliary_head.in_index
        changes.update({'model.auxiliary_head.in_channels': channels[index], 'model.auxiliary_head.channels': 8})
    if name in SEGMENTATION:
        changes['model.data_preprocessor.size'] = (64, 96)
    if 'rpn_head' in model:
        changes.update({'model.train_cfg.rpn_proposal.max_per_img': 50, 'model.test_cfg.rpn.max_per_img': 20})
        for stage in model.train_cfg.rcnn if isinstance(model.train_cfg.rcnn, list) else [model.train_cfg.rcnn]:
            stage.sampler.num = 16
    cfg.merge_from_dict(changes)
    return cfg


def build(cfg):
    model = importlib.import_module(f'{cfg.default_scope}.registry').MODELS.build(cfg.model)
    model.init_weights()
    return model


def has_masks(name):
    return name in DETECTION and not name.startswith(('retinanet', 'dino')) and not re.search('rtmdet_|yolox', name)


def inputs_of(name, cfg):
    """Two images, as from the host's data loader."""
    if name in DETECTION:
        from mmdet.testing import demo_mm_inputs

        sizes = [[3, 96, 128], [3, 96, 128] if 'rtmdet-ins' in name else [3, 65, 97]]
        inputs = demo_mm_inputs(2, sizes, num_classes=6, with_mask=has_masks(name))
        if name.startswith('pennfudan'):  # one class
            for sample in inputs['data_samples']:
                sample.gt_instances.labels.zero_()
        return inputs
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(ori_shape=(64, 96), img_shape=(64, 96)))
        labels = torch.randint(cfg.model.decode_head.num_classes, (1, 64, 96))
        void = cfg.model.decode_head.get('ignore_index', 255)
        sample.gt_sem_seg = PixelData(data=torch.where(torch.rand(1, 64, 96) < 0.1, void, labels))
        samples.append(sample)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 96), np.uint8)
    return dict(inputs=list(torch.from_numpy(images)), data_samples=samples)


def test_the_list_of_configs_is_complete():
    resnets = [
        f'mask_rcnn/mask-rcnn_acmix-r{depth}_fpn_{schedule}_coco.py'
        for depth in (26, 50, 101)
        for schedule in ('1x', 'ms-3x')
    ]
    swins = [
        f'{head}_rcnn/{head.replace("_", "-")}-rcnn_acmix-{network}_fpn_ms-crop-{schedule}_coco.py'
        for head in ('mask', 'cascade_mask')
        for network, schedule in (('swin-t', '1x'), ('swin-t', '3x'), ('swin-s', '3x'))
    ]
    segmentors = [
        f'upernet/upernet_acmix-{network}_8xb2-160k_ade20k-512x512.py' for network in ('swin-t', 'swin-s', 'r50')
    ]
    pvts = [
        f'{head}_acmix-{network}_{rest}.py'
        for network in ('pvt-t', 'pvt-s')
        for head, rest in (
            ('mask_rcnn/mask-rcnn', 'fpn_1x_coco'),
            ('retinanet/retinanet', 'fpn_1x_coco'),
            ('sem_fpn/sem-fpn', '8xb4-40k_ade20k-512x512'),
        )
    ]
    shapes = [
        'shapes/mask-rcnn_acmix-r26_shapes.py',
        'shapes/mask-rcnn_acmix-r26_fsdp_shapes.py',
        'shapes/upernet_acmix-swin_shapes.py',
        'shapes/mask-rcnn_xvolution-r26_shapes.py',
        'shapes/mask-rcnn_lesa-r26_shapes.py',
    ]
    resnets += ['retinanet/retinanet_acmix-r50_fpn_1x_coco.py', 'mask_rcnn/mask-rcnn_lesa-r50_fpn_1x_coco.py']
    resnets += [f'mask_rcnn/mask-rcnn_xvolution-r{depth}_fpn_1x_coco.py' for depth in (34, 50, 101)]
    placements = [
        f'{model}_acmix-{place}_{rest}_coco.py'
        for model, rest in (
            ('rtmdet/rtmdet_tiny', '8xb32-300e'),
            ('rtmdet/rtmdet_s', '8xb32-300e'),
            ('rtmdet/rtmdet-ins_tiny', '8xb32-300e'),
            ('yolox/yolox_tiny', '8xb8-300e'),
            ('yolox/yolox_s', '8xb8-300e'),
        )
        for place in ('neck', 'p3')
    ]
    swins += [
        'dino/dino-4scale_acmix-swin-t_8xb2-12e_coco.py',
        'mask2former/mask2former_acmix-swin-t_8xb2-160k_ade20k-512x512.py',
        'mask2former/mask2former_acmix-swin-t_8xb2-lsj-50e_coco.py',
    ]
    segmentors += ['deeplabv3plus/deeplabv3plus_acmix-r50-d8_4xb4-160k_ade20k-512x512.py']
    shapes += [
        f'shapes/{model}_tiny_{kind}_shapes.py' for model in ('rtmdet', 'yolox') for kind in ('acmix-neck', 'plain')
    ]
    shapes += [f'camvid/{layer}.py' for layer in ('acmix', 'attention', 'convolution', 'lesa', 'plain', 'xvolution')]
    shapes += [f'pennfudan/{start}.py' for start in ('approximated', 'copied', 'plain', 'random')]
    shapes += [f'mixing/{layer}.py' for layer in ('acmix', 'lesa', 'plain', 'xvolution')]
    shapes += [
        f'ablation/{variant}.py'
        for variant in (
            'attention',
            'both',
            'both-fixed-rates',
            'convolution',
            'plain',
            'shift-depthwise',
            'shift-frozen',
        )
    ] + [f'warm_start/{start}.py' for start in ('approximated', 'nothing', 'plain', 'refined')]
    assert {'maskrcnn_acmix.py', 'upernet_acmix.py', *resnets, *swins, *pvts, *segmentors, *placements, *shapes} == set(
        CONFIGS
    )


@pytest.mark.parametrize('name', CONFIGS)
def test_the_config_resolves_and_imports_the_plugin(name):
    cfg = load(name)
    of_mmdet = ['mmdet.models'] * (name in TRANSFORMERS and name in SEGMENTATION)  # MMSegmentation's Mask2Former
    assert cfg.custom_imports == dict(imports=['mmacmix', *of_mmdet], allow_failed_imports=False)
    assert cfg.train_dataloader.dataset and cfg.val_evaluator and cfg.optim_wrapper.optimizer
    assert cfg.default_scope == ('mmseg' if name in SEGMENTATION else 'mmdet')
    assert '1x' not in name or cfg.train_cfg.max_epochs == 12
    assert '3x' not in name or cfg.train_dataloader.dataset.get('times', 1) * cfg.train_cfg.max_epochs == 36


@functools.cache
def channels_of(scope, backbone):
    """The output channels and the network of a backbone, given as JSON for caching since many configs share one."""
    network = importlib.import_module(f'{scope}.registry').MODELS.build(json.loads(backbone))
    network.eval()
    with torch.no_grad():
        return [m.shape[1] for m in network(torch.rand(1, 3, 64, 64))], network


@pytest.mark.parametrize('name', [name for name in CONFIGS if re.search(r'_\d+xb\d+', name)])
def test_the_batch_of_the_schedule_is_that_of_the_name(name):
    gpus, images = map(int, re.search(r'_(\d+)xb(\d+)', name).groups())
    cfg = load(name)
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr.base_batch_size == gpus * images


@pytest.mark.parametrize('name', [name for name in CONFIGS if name not in PLACEMENTS])
def test_the_backbone_matches_the_name_and_fits_the_heads(name):
    cfg = load(name)
    cfg.model.backbone.init_cfg = None  # no download
    channels, backbone = channels_of(cfg.default_scope, json.dumps(cfg.model.backbone.to_dict()))
    network = network_of(name)
    if network.startswith('r'):
        blocks = list(XVolutionResNet.arch_settings[int(network[1:].removesuffix('-d8'))][1])
        assert [len(getattr(backbone, layer)) for layer in backbone.res_layers] == blocks
    elif network in BLOCKS:
        assert [len(stage) for stage in backbone.stages] == BLOCKS[network]
        assert PRETRAINED[network] in load(name).model.backbone.init_cfg.checkpoint
    head = cfg.model.get('neck') or cfg.model.get('panoptic_head') or cfg.model.decode_head
    if head.type == 'DepthwiseSeparableASPPHead':
        assert (channels[head.in_index], channels[0]) == (head.in_channels, head.c1_in_channels)
    else:
        assert channels == head.in_channels
    auxiliary_head = cfg.model.get('auxiliary_head')
    assert not auxiliary_head or channels[auxiliary_head.in_index] == auxiliary_head.in_channels


@pytest.mark.parametrize('name', [name for name in PLACEMENTS if '_acmix-' in name])
def test_acmix_is_where_the_name_says(name):
    model = build(load_small(name))
    places = [place for place, module in model.named_modules() if isinstance(module, ACmix)]
    if '_acmix-neck_' in name:
        assert places == [f'neck.1.levels.{level}.layer' for level in range(3)]
        assert {tuple(scale.shape) for place, scale in model.named_parameters() if 'residual_scale' in place} == {
            (model.neck[0].out_channels,)
        }
    else:
        (place,) = places
        assert '_acmix-p3_' in name and place.startswith('neck.top_down_blocks.1.')
    hooks = [hook['type'] for hook in load(name).custom_hooks]
    assert hooks[-1] == 'PlainStateHook' and ('EMAHook' in hooks or name.startswith('shapes'))


@pytest.mark.parametrize('name', CONFIGS)
def test_rates_norms_and_positions_have_no_weight_decay(name):
    cfg = load_small(name)
    if cfg.model.backbone.type == 'ACmixSwinTransformer':
        cfg.model.backbone.use_abs_pos_embed = True
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decays = {id(group['params'][0]): group['weight_decay'] for group in optimizer.param_groups}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    exempt = {names[key] for key, decay in decays.items() if decay == 0}
    leaves = {
        ACmix: ('attention_rate', 'conv_rate', 'position.weight', 'position.bias'),
        WindowACmix: ('attention_rate', 'conv_rate', 'relative_position_bias_table'),
        SpatialReductionACmix: ('attention_rate', 'conv_rate'),
        LESA: ('row_positions', 'column_positions'),
        PatchEmbed: ('position',),
        ACmixSwinTransformer: ('absolute_pos_embed',),
        ACmixNeck: tuple(f'levels.{level}.residual_scale' for level in range(3)),
        torch.nn.modules.batchnorm._NormBase: ('weight', 'bias'),
        torch.nn.GroupNorm: ('weight', 'bias'),
        torch.nn.LayerNorm: ('weight', 'bias'),
    }
    wanted = {
        f'{name}.{leaf}'
        for name, module in model.named_modules()
        for kind, names_of_kind in leaves.items()
        if isinstance(module, kind)
        for leaf in names_of_kind
    }
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert exempt and exempt >= wanted & trained
    # The hosts exempt biases, and what queries start from.
    others = r'\.bias$' if name in PLACEMENTS else 'query_|level_embed' if name in TRANSFORMERS else '$^'
    assert not [each for each in exempt - wanted if not re.search(others, each)]


@pytest.mark.parametrize('name', CONFIGS)
def test_a_small_model_trains_and_predicts(name):
    cfg = load_small(name)
    model = build(cfg)
    inputs = inputs_of(name, cfg)
    losses, _ = model.parse_losses(model(**model.data_preprocessor(inputs, True), mode='loss'))
    losses.backward()
    assert losses.isfinite()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(inputs, False), mode='predict')
    assert len(results) == 2
    for result in results:
        if name in SEGMENTATION:
            assert result.pred_sem_seg.data.shape == (1, 64, 96)
        else:
            assert len(result.pred_instances.bboxes) == len(result.pred_instances.scores)
            assert has_masks(name) == ('masks' in result.pred_instances)


def test_shapes_configs_have_the_classes_of_the_data_set():
    for name, classes, palette in (
        ('shapes/mask-rcnn_acmix-r26_shapes.py', CLASSES, PALETTE),
        ('shapes/upernet_acmix-swin_shapes.py', SEMANTIC_CLASSES, SEMANTIC_PALETTE),
    ):
        metainfo = load(name).train_dataloader.dataset.metainfo
        assert tuple(metainfo.classes) == classes
        assert tuple(map(tuple, metainfo.palette)) == palette
