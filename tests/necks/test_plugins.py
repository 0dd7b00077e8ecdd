"""The ``plugins`` of the host libraries' ResNet take every layer, which gets the block's channels alone."""

import importlib

import pytest
import torch

from mmacmix.layers import CONV_LAYERS, ACmix


def resnet(host, layer, **arguments):
    layer = dict(type=layer.__name__, **arguments)
    plugins = [
        dict(cfg=layer, stages=(False, False, True, True), position='after_conv2'),
        dict(cfg=dict(layer, postfix='_last'), stages=(False, False, False, True), position='after_conv3'),
    ]
    network = importlib.import_module(f'{host}.models.backbones').ResNet
    return network(depth=50, base_channels=16, out_indices=(3,), norm_eval=False, plugins=plugins)


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('layer', CONV_LAYERS)
def test_a_plugin_is_named_after_its_layer_and_keeps_the_shape(layer, host):
    network = resnet(host, layer)
    name = layer.__name__.lower()
    layers = {path: module for path, module in network.named_modules() if isinstance(module, layer)}
    after_conv2 = [f'layer3.{block}.{name}' for block in range(6)] + [f'layer4.{block}.{name}' for block in range(3)]
    after_conv3 = [f'layer4.{block}.{name}_last' for block in range(3)]
    assert set(layers) == {*after_conv2, *after_conv3}
    for path, module in layers.items():
        channels = 512 if path in after_conv3 else 128 if path.startswith('layer4') else 64
        assert (module.in_channels, module.out_channels, module.kernel_size) == (channels, channels, (3, 3))
    network.init_weights()
    network.train()
    out = network(torch.rand(2, 3, 64, 64))[0]
    assert out.shape == (2, 512, 2, 2)
    out.square().mean().backward()
    assert all(parameter.grad is not None for module in layers.values() for parameter in module.parameters())


def test_arguments_reach_the_layer_and_weights_of_the_plain_network_the_rest():
    from mmdet.models.backbones import ResNet

    network = resnet('mmdet', ACmix, num_heads=2)
    assert network.layer3[0].acmix.num_heads == 2
    plain = ResNet(depth=50, base_channels=16)
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing and all('.acmix' in name for name in missing)
