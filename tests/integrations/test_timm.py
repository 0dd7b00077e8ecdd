"""The models of timm are our backbones, and what builds on timm takes them."""

import logging

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from safetensors.torch import save_file
from torch import nn

import mmacmix.integrations.timm  # registers the models
from mmacmix import backbones
from tests.hosts import randomize
from tests.test_versions import without
from tests.tooling import ROOT, python

BACKBONES = {
    **{f'acmix_resnet{depth}': ('ACmixResNet', dict(depth=depth)) for depth in (26, 38, 50, 101)},
    **{f'acmix_swin_{arch}': ('ACmixSwinTransformer', dict(arch=arch)) for arch in ('tiny', 'small')},
    **{
        f'acmix_pvt_{arch}': ('ACmixPyramidVisionTransformer', dict(arch=arch, final_norm=True))
        for arch in ('tiny', 'small')
    },
}
ONE_A_KIND = ('acmix_resnet26', 'acmix_swin_tiny', 'acmix_pvt_tiny')


def small(**arguments):
    return timm.create_model('acmix_resnet26', base_channels=8, **arguments)


def test_a_model_without_memory_takes_weights():
    with torch.device('meta'):
        empty = small()
    network = small()
    empty.load_state_dict(network.state_dict(), assign=True)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(empty.eval()(images), network.eval()(images), rtol=0, atol=0)


def test_the_models_are_listed_without_weights():
    assert set(timm.list_models('acmix_*')) == set(BACKBONES)
    assert timm.list_models('acmix_*', pretrained=True) == []
    for name in BACKBONES:
        entrypoint = timm.model_entrypoint(name)
        assert entrypoint.__name__ == name and getattr(mmacmix.integrations.timm, name) is entrypoint
        assert name in mmacmix.integrations.timm.__all__


@pytest.mark.parametrize('name', BACKBONES)
def test_outputs_equal_those_of_the_backbone(name):
    kind, arguments = BACKBONES[name]
    ours = randomize(getattr(backbones, kind)(**arguments)).eval()
    images = torch.rand(2, 3, 64, 96)
    maps = ours(images)

    features = timm.create_model(name, features_only=True).eval()
    features.backbone.load_state_dict(ours.state_dict())
    for expected, actual in zip(maps, features(images), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    assert features.feature_info.channels() == [each.shape[1] for each in maps]
    assert features.feature_info.reduction() == [64 // each.shape[2] for each in maps] == [4, 8, 16, 32]

    classifier = timm.create_model(name, num_classes=5).eval()
    classifier.backbone.load_state_dict(ours.state_dict())
    logits = maps[-1].mean((2, 3)) @ classifier.head.fc.weight.T + classifier.head.fc.bias
    torch.testing.assert_close(classifier(images), logits)


@pytest.mark.parametrize('name', ONE_A_KIND)
def test_checkpoints_of_our_imagenet_configs_fit(name):
    """A classifier of MMPretrain, whose names and outputs the models have."""
    from mmpretrain.registry import MODELS

    config = {'acmix_resnet26': 'acmix-r26_8xb32', 'acmix_swin_tiny': 'acmix-swin-t_8xb128'}
    cfg = Config.fromfile(ROOT / 'configs' / 'imagenet' / f'{config.get(name, "acmix-pvt-t_8xb128")}_in1k.py')
    host = randomize(MODELS.build(dict(cfg.model, _scope_='mmpretrain')))
    host.eval()
    model = timm.create_model(name).eval()
    model.load_state_dict(host.state_dict())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model(images), host(images, mode='tensor'))


@pytest.mark.parametrize(
    'indices, stages', [((1, 3), [1, 3]), ((-1,), [3]), ((-1, 0), [0, 3]), (2, [2, 3]), ([2], [2]), (4, [0, 1, 2, 3])]
)
@pytest.mark.parametrize('name', ONE_A_KIND)
def test_out_indices_select_the_maps(name, indices, stages):
    features = timm.create_model(name, features_only=True, out_indices=indices).eval()
    maps = features(torch.rand(1, 3, 64, 64))
    assert [64 // each.shape[2] for each in maps] == [4 * 2**stage for stage in stages]
    assert features.feature_info.reduction() == [64 // each.shape[2] for each in maps]
    assert features.feature_info.channels() == [each.shape[1] for each in maps]
    assert features.feature_info.module_name() == [f'stage{stage}' for stage in stages]
    norms = [name for name, _ in features.backbone.named_children() if name.startswith('norm')]
    if 'swin' in name:  # none that is not used
        assert norms == [f'norm{stage}' for stage in stages]


@pytest.mark.parametrize('indices', [(4,), (-5,), ()])
def test_a_stage_that_does_not_exist_is_refused(indices):
    with pytest.raises(ValueError, match='out_indices must name stages 0 to 3'):
        small(features_only=True, out_indices=indices)


@pytest.mark.parametrize('features_only', [True, False])
@pytest.mark.parametrize('name', ONE_A_KIND)
def test_images_may_have_other_channels(name, features_only):
    model = timm.create_model(name, in_chans=5, features_only=features_only)
    model(torch.rand(2, 5, 64, 64))
    with pytest.raises(ValueError, match=r'x must be images \(B, 5, H, W\)'):
        model(torch.rand(2, 3, 64, 64))


def test_arguments_reach_the_backbone():
    features = timm.create_model(
        'acmix_resnet26', features_only=True, base_channels=8, strides=(1, 2, 1, 1), acmix=dict(num_heads=2)
    )
    assert features.feature_info.channels() == [32, 64, 128, 256]
    assert features.feature_info.reduction() == [4, 8, 8, 8]
    assert features.backbone.layer1[0].conv2.num_heads == 2
    with pytest.raises(TypeError, match='output_stride'):
        small(output_stride=16)


def test_the_head_can_be_left_out_and_replaced():
    model = small(num_classes=0).eval()
    images = torch.rand(2, 3, 64, 64)
    last = model.forward_features(images)
    assert last.shape == (2, model.num_features, 2, 2) and model.num_features == model.head_hidden_size == 256
    torch.testing.assert_close(model(images), last.mean((2, 3)))
    assert isinstance(model.get_classifier(), nn.Identity)

    model.reset_classifier(7, 'max')
    assert model.num_classes == 7 and model.get_classifier().out_features == 7
    pooled = last.amax((2, 3))
    torch.testing.assert_close(model.forward_head(last, pre_logits=True), pooled)
    torch.testing.assert_close(model.forward_head(last), model.get_classifier()(pooled))
    torch.testing.assert_close(small(num_classes=0, global_pool='').eval()(images).shape, last.shape)


def test_a_classifier_trains_all_its_parameters_and_statistics():
    for name in ONE_A_KIND:
        model = timm.create_model(name, num_classes=3, drop_rate=0.5).train()
        assert all(module.training for module in model.modules()), name
        model(torch.rand(2, 3, 64, 64)).square().sum().backward()
        assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == [], name


def test_weights_are_initialised_as_ours_and_without_a_line_per_parameter():
    logger, records = MMLogger.get_current_instance(), []
    handler = logging.Handler(logging.INFO)
    handler.emit = records.append
    logger.addHandler(handler)
    model = small(num_classes=0)
    assert records == []
    logger.info('as before')
    logger.removeHandler(handler)
    assert len(records) == 1
    assert not model.backbone.layer1[0].bn3.weight.any()  # zero_init_residual


def test_pretrained_weights_do_not_exist_but_can_be_given(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        timm.create_model('acmix_resnet26', pretrained=True)
    assert str(caught.value) == (
        'No pretrained weights exist for acmix_resnet26. Use `pretrained=False` for random init.'
    )
    source = randomize(small(num_classes=10))
    save_file(source.state_dict(), tmp_path / 'weights.safetensors')
    overlay = dict(file=str(tmp_path / 'weights.safetensors'), num_classes=10)
    for arguments in (dict(num_classes=10), dict(features_only=True)):
        model = small(pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
        assert torch.equal(model.backbone.conv1.weight, source.backbone.conv1.weight)
    # Fewer channels and another head, which timm adapts.
    model = small(pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=4)
    torch.testing.assert_close(model.backbone.conv1.weight, source.backbone.conv1.weight.sum(1, keepdim=True))


def test_timm_saves_and_loads_a_model(tmp_path):
    model = randomize(small(num_classes=4)).eval()
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    loaded = small(num_classes=4, checkpoint_path=str(tmp_path / 'weights.pth')).eval()
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize('name, depth', [('acmix_resnet26', 5), ('acmix_swin_tiny', 4), ('acmix_pvt_tiny', 5)])
def test_segmentation_models_pytorch_takes_the_models(name, depth):
    import segmentation_models_pytorch as smp

    channels = (32, 16, 8, 8, 4)[:depth]
    model = smp.Unet(
        f'tu-{name}', encoder_depth=depth, encoder_weights=None, decoder_channels=channels, in_channels=4, classes=3
    )
    images = torch.rand(2, 4, 64, 96)
    output = model(images)
    assert output.shape == (2, 3, 64, 96)
    output.square().mean().backward()
    kind, arguments = BACKBONES[name]
    ours = getattr(backbones, kind)(**arguments, in_channels=4, out_indices=range(depth - 1)).eval()
    ours.load_state_dict(model.eval().encoder.model.backbone.state_dict())
    for expected, actual in zip(ours(images), model.encoder(images)[2:], strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_timm_is_imported_only_when_asked_for():
    done = python("""
        import sys
        import mmacmix
        assert not {'timm', 'mmacmix.integrations'} & set(sys.modules)
        import mmacmix.integrations
        assert 'timm' not in sys.modules
    """)
    assert done.returncode == 0, done.stderr


def test_a_missing_timm_is_named():
    done = without('timm', code='import mmacmix.integrations.timm')
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('mmacmix.errors.LibraryError: mmacmix needs timm') and last.endswith('`pip install timm`.')
