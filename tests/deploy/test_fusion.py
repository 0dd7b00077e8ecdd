"""Fused networks give what the networks gave."""

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmacmix.backbones import ACmixResNet, ACmixSwinTransformer, LESAResNet
from mmacmix.deploy import fuse
from mmacmix.layers import ACmix, FusedACmix


def shaken(module):
    """With weights and statistics that are like trained ones: nothing is zero, no shift is exact."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor) * 0.3 + 0.1)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d) and each.track_running_stats:
            each.running_var.uniform_(0.5, 2)
    module.double().eval()  # which returns nothing in the hosts' networks
    return module


@pytest.mark.parametrize('in_channels', [8, 160])
@pytest.mark.parametrize(
    'arguments',
    [
        dict(),
        dict(stride=2),
        dict(dilation=2, bias=True),
        dict(stride=2, dilation=3),
        dict(kernel_size=5, num_heads=2),
        dict(shift_form='depthwise'),
        dict(rates=(1, 0), learn_rates=False, bias=True),
        dict(rates=(0, 1), learn_rates=False),
    ],
)
@pytest.mark.parametrize('size', [(9, 12), (1, 2)])
def test_a_layer_and_its_normalisation(in_channels, arguments, size):
    layer, norm = shaken(ACmix(in_channels, 16, **arguments)), shaken(nn.BatchNorm2d(16))
    x = torch.randn(2, in_channels, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(FusedACmix(layer, norm)(x), norm(layer(x)))
        torch.testing.assert_close(FusedACmix(layer)(x), layer(x))


@pytest.mark.parametrize('arguments', [dict(), dict(deep_stem=True), dict(norm_cfg=dict(type='GN', num_groups=4))])
def test_a_backbone(arguments):
    network = shaken(ACmixResNet(26, base_channels=16, **arguments))
    images = torch.randn(1, 3, 61, 70, dtype=torch.float64)
    with torch.no_grad():
        expected = network(images)
        fused = fuse(network)
        assert fused is network and not any(isinstance(module, (ACmix, nn.BatchNorm2d)) for module in fused.modules())
        for actual, each in zip(fused(images), expected, strict=True):
            torch.testing.assert_close(actual, each)


def test_lesa_keeps_the_normalisation_of_its_attention_and_behind_it():
    network = shaken(LESAResNet(26, base_channels=16))
    images = torch.randn(1, 3, 61, 70, dtype=torch.float64)
    with torch.no_grad():
        expected = network(images)
        fused = fuse(network)
        left = [name for name, module in fused.layer4.named_modules() if isinstance(module, nn.BatchNorm2d)]
        assert left == ['0.conv2.logits_norm', '0.conv2.binary_norm', '0.bn2']
        for actual, each in zip(fused(images), expected, strict=True):
            torch.testing.assert_close(actual, each)


def test_a_hosts_resnet_with_acmix_inside():
    from mmdet.models.backbones import ResNet

    network = shaken(ResNet(50, base_channels=16, dcn=dict(type='ACmix'), stage_with_dcn=(False, True, True, True)))
    images = torch.randn(1, 3, 61, 70, dtype=torch.float64)
    with torch.no_grad():
        expected = network(images)
        fused = fuse(network)
        assert not any(isinstance(module, ACmix) for module in fused.modules())
        for actual, each in zip(fused(images), expected, strict=True):
            torch.testing.assert_close(actual, each)


def test_a_network_without_acmix_layers_stays(monkeypatch):
    network = ACmixSwinTransformer(dict(embed_dims=16, depths=(1, 1), num_heads=(1, 2)), out_indices=(1,)).eval()
    images = torch.rand(1, 3, 40, 33)
    before = network(images)[0]
    torch.testing.assert_close(fuse(network)(images)[0], before)


@pytest.mark.parametrize('order', [('conv', 'norm', 'act'), ('norm', 'act', 'conv'), ('conv', 'act', 'norm')])
def test_a_conv_module_keeps_its_order(order):
    module = shaken(ConvModule(8, 8, 3, padding=1, conv_cfg=dict(type='ACmix'), norm_cfg=dict(type='BN'), order=order))
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = module(x)
        fused = fuse(module)
        assert isinstance(fused.conv, FusedACmix)
        torch.testing.assert_close(fused(x), expected)


@pytest.mark.parametrize('wrap', [lambda layer: layer, nn.Sequential, lambda layer: nn.Sequential(nn.ReLU(), layer)])
def test_a_layer_wherever_it_stands(wrap):
    network = shaken(wrap(ACmix(8, 8)))
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = network(x)
        fused = fuse(network)
        assert not any(isinstance(module, ACmix) for module in fused.modules())
        torch.testing.assert_close(fused(x), expected)


def test_weights_stay_on_their_device():
    with torch.device('meta'):
        fused = FusedACmix(ACmix(8, 8), nn.BatchNorm2d(8).eval())
    assert {parameter.device.type for parameter in fused.parameters()} == {'meta'}


def test_a_normalisation_without_statistics_or_with_hooks_stays():
    for norm in (nn.BatchNorm2d(8, track_running_stats=False), nn.BatchNorm2d(8)):
        network = shaken(nn.Sequential(ACmix(8, 8), norm))
        if norm.track_running_stats:
            norm.register_forward_hook(lambda module, inputs, out: 2 * out)
        x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
        with torch.no_grad():
            expected = network(x)
            fused = fuse(network)
            assert fused[1] is norm and isinstance(fused[0], FusedACmix)
            torch.testing.assert_close(fused(x), expected)
