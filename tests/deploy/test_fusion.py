"""Fused networks give the outputs of the original networks."""

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmacmix.backbones import ACmixResNet, ACmixSwinTransformer, LESAResNet, XVolutionResNet
from mmacmix.deploy import fuse
from mmacmix.errors import UserError
from mmacmix.layers import ACmix, FusedACmix, FusedXVolution, XVolution
from tests.layers.definitions import randomised


def host_resnet():
    from mmdet.models.backbones import ResNet

    return ResNet(50, base_channels=16, dcn=dict(type='ACmix'), stage_with_dcn=(False, True, True, True))


def fit_statistics(network, images):
    """Give batch normalisation the statistics of the images, without which products of products grow."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1
    network.train()(images)
    network.eval()


def check_fused(network, x):
    """Fuse a network, compare its outputs with those before, and return the fused network."""
    with torch.no_grad():
        expected = network(x)
        fused = fuse(network)
        torch.testing.assert_close(fused(x), expected)
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    return fused


BACKBONES = {
    'ACmix': lambda: ACmixResNet(26, base_channels=16),
    'ACmix, deep stem': lambda: ACmixResNet(26, base_channels=16, deep_stem=True),
    'ACmix, group normalisation': lambda: ACmixResNet(26, base_channels=16, norm_cfg=dict(type='GN', num_groups=4)),
    'XVolution-34': lambda: XVolutionResNet(34, base_channels=8, norm_eval=False),
    'XVolution-50': lambda: XVolutionResNet(50, base_channels=8, norm_eval=False),
    'mmdet': host_resnet,
}


@pytest.mark.parametrize('name', BACKBONES)
def test_a_backbone(name):
    network, images = randomised(BACKBONES[name]()), torch.randn(2, 3, 61, 70, dtype=torch.float64)
    if name.startswith('XVolution'):
        fit_statistics(network, images)
    fused = check_fused(network, images)
    assert fused is network
    left = (ACmix, XVolution) if name == 'mmdet' else (ACmix, XVolution, nn.BatchNorm2d)
    assert not any(isinstance(module, left) for module in fused.modules())


def test_lesa_keeps_the_normalisation_inside_its_attention_and_after_it():
    network, images = randomised(LESAResNet(26, base_channels=16)), torch.randn(1, 3, 61, 70, dtype=torch.float64)
    fused = check_fused(network, images)
    left = [name for name, module in fused.layer4.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ['0.conv2.logits_norm', '0.conv2.binary_norm', '0.bn2']


def test_a_network_without_mergeable_layers_is_unchanged():
    network = ACmixSwinTransformer(dict(embed_dims=16, depths=(1, 1), num_heads=(1, 2)), out_indices=(1,)).eval()
    types = [type(module) for module in network.modules()]
    fused = check_fused(network, torch.rand(1, 3, 40, 33))
    assert [type(module) for module in fused.modules()] == types


@pytest.mark.parametrize('conv, fused_type', [('ACmix', FusedACmix), ('XVolution', FusedXVolution)])
@pytest.mark.parametrize('order', [('conv', 'norm', 'act'), ('norm', 'act', 'conv'), ('conv', 'act', 'norm')])
def test_a_conv_module_keeps_its_order(conv, fused_type, order):
    module = ConvModule(8, 8, 3, padding=1, conv_cfg=dict(type=conv), norm_cfg=dict(type='BN'), order=order)
    fused = check_fused(randomised(module), torch.randn(1, 8, 5, 6, dtype=torch.float64))
    assert isinstance(fused.conv, fused_type)
    assert isinstance(fused.bn, nn.Identity) == (order[:2] == ('conv', 'norm'))


@pytest.mark.parametrize('wrap', [lambda layer: layer, nn.Sequential, lambda layer: nn.Sequential(nn.ReLU(), layer)])
def test_a_layer_at_any_position(wrap):
    fused = check_fused(randomised(wrap(ACmix(8, 8))), torch.randn(1, 8, 5, 6, dtype=torch.float64))
    assert not any(isinstance(module, ACmix) for module in fused.modules())


@pytest.mark.parametrize('norm', [nn.BatchNorm2d(8, track_running_stats=False), nn.BatchNorm2d(8)])
def test_a_normalisation_without_statistics_or_with_hooks_is_kept(norm):
    if norm.track_running_stats:
        norm.register_forward_hook(lambda module, inputs, out: 2 * out)
    fused = check_fused(randomised(nn.Sequential(ACmix(8, 8), norm)), torch.randn(2, 8, 6, 6, dtype=torch.float64))
    assert fused[1] is norm and isinstance(fused[0], FusedACmix)


@pytest.mark.parametrize('nested, name', [(False, r'2: '), (True, r'2\.0: ')])
def test_a_layer_that_cannot_be_merged_is_named_and_nothing_changes(nested, name):
    refusing = XVolution(8, 8, norm_cfg=dict(type='IN'))
    network = nn.Sequential(XVolution(8, 8), nn.BatchNorm2d(8), nn.Sequential(refusing) if nested else refusing)
    types = [type(module) for module in network.modules()]
    with pytest.raises(UserError, match=f'^{name}XVolution cannot become one convolution exactly: attention_norm is '):
        fuse(network)
    assert [type(module) for module in network.modules()] == types and network.training
