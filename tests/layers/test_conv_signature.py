"""Layers that replace a convolution accept its arguments, give its output size, and refuse other inputs."""

import inspect
import math

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule, build_conv_layer
from mmengine.registry import MODELS
from torch import nn

from mmacmix.deploy import fuse
from mmacmix.layers import CONV_LAYERS, LESA, ACmix, XVolution

each_layer = pytest.mark.parametrize('layer_type', CONV_LAYERS)


@each_layer
@pytest.mark.parametrize('height, width', [(1, 1), (2, 3), (3, 1), (7, 9), (8, 5)])
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('kernel_size, dilation', [(3, 1), (3, 2), (1, 1), (5, 1), (5, 3)])
def test_output_size_is_that_of_the_convolution(layer_type, height, width, stride, kernel_size, dilation):
    arguments = dict(kernel_size=kernel_size, stride=stride, padding=kernel_size // 2 * dilation, dilation=dilation)
    x = torch.rand(2, 16, height, width)
    out = layer_type(16, 32, **arguments)(x)
    assert out.shape == nn.Conv2d(16, 32, **arguments)(x).shape and out.isfinite().all()


@each_layer
def test_arguments_come_in_the_order_of_a_convolution(layer_type):
    names = ['in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups', 'bias']
    for kind in (layer_type, nn.Conv2d):
        assert list(inspect.signature(kind).parameters)[:8] == names
    assert '16, 32, kernel_size=(5, 5), stride=(2, 2), dilation=(3, 3)' in repr(layer_type(16, 32, 5, (2, 2), 6, 3))


@each_layer
def test_channels_stay_as_they_are_by_default(layer_type):
    layer = layer_type(32)
    assert layer.out_channels == 32 and layer(torch.rand(1, 32, 3, 4)).shape == (1, 32, 3, 4)


@each_layer
def test_is_registered_and_built_by_mmcv(layer_type):
    name = layer_type.__name__
    assert MODELS.get(name) is layer_type
    layer = build_conv_layer(dict(type=name), 16, 32, 3, padding=1)
    assert type(layer) is layer_type


@each_layer
@pytest.mark.parametrize('kernel_size, stride', [(3, 1), (3, 2), (1, 1)])
def test_conv_module_takes_it_as_conv_cfg(layer_type, kernel_size, stride):
    conv_cfg, norm_cfg = dict(type=layer_type.__name__), dict(type='BN')
    arguments = dict(stride=stride, padding=kernel_size // 2, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
    module = ConvModule(16, 32, kernel_size, **arguments)
    assert module(torch.rand(2, 16, 9, 7)).shape == (2, 32, math.ceil(9 / stride), math.ceil(7 / stride))


@each_layer
def test_bias_is_added_to_the_output(layer_type):
    layer, x = layer_type(16, 16, bias=True).eval(), torch.rand(1, 16, 6, 6)
    before = layer(x)
    nn.init.constant_(layer.bias[8:], 2)
    expected = before + torch.tensor([0.0, 2.0]).repeat_interleave(8).view(1, 16, 1, 1)
    torch.testing.assert_close(layer(x), expected)


@each_layer
def test_an_empty_batch_as_in_region_heads(layer_type):
    layer = layer_type(16, 32, stride=2)
    out = layer(torch.zeros(0, 16, 7, 7))
    assert out.shape == (0, 32, 4, 4)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert all(buffer.isfinite().all() for buffer in layer.buffers())


@each_layer
@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(kernel_size=4), 'kernel_size must be odd.*4'),
        (dict(kernel_size=(3, 5)), r'kernel_size must be one number or two equal ones, got \(3, 5\)'),
        (dict(stride=0), 'stride must be a positive integer, got 0'),
        (dict(dilation='2'), "dilation must be one number or two equal ones, got '2'"),
        (dict(padding=0), 'has "same" padding: .* padding must be 1, got 0'),
        (dict(padding=2), 'has "same" padding: .* padding must be 1, got 2'),
        (dict(groups=0), 'groups must be a positive integer, got 0'),
        (dict(groups=3), '(groups must be 1|in_channels must be a multiple of groups), got (3|16 and 3)'),
    ],
)
def test_wrong_arguments_are_named(layer_type, arguments, message):
    with pytest.raises(ValueError, match=message):
        layer_type(16, 16, **arguments)


@pytest.mark.parametrize(
    'layer_type, arguments, message',
    [
        (ACmix, dict(out_channels=10), 'out_channels must be a multiple of num_heads, got 10 and 4'),
        (ACmix, dict(attention_kernel_size=6), 'attention_kernel_size must be odd.*6'),
        (ACmix, dict(num_heads=0), 'num_heads must be a positive integer, got 0'),
        (ACmix, dict(backend='fast'), "backend must be one of .*, got 'fast'"),
        (LESA, dict(out_channels=24), r'out_channels must be a multiple of 2 \* num_heads, got 24 and 16'),
        (LESA, dict(in_channels=12), 'in_channels must be a multiple of num_heads, got 12 and 8'),
        (LESA, dict(position_size=0), 'position_size must be a positive integer, got 0'),
        (XVolution, dict(shift_distance=0), 'shift_distance must be a positive integer, got 0'),
        (XVolution, dict(directions=()), r'directions must be different pairs of -1, 0 and 1, got \(\)'),
        (XVolution, dict(directions=((0, 2),)), r'directions must be .*, got \(\(0, 2\),\)'),
        (XVolution, dict(directions=((0, 1), [0, 1])), 'directions must be different pairs'),
        (XVolution, dict(directions='left'), "directions must be .*, got 'left'"),
    ],
)
def test_wrong_arguments_of_one_layer_are_named(layer_type, arguments, message):
    with pytest.raises(ValueError, match=message):
        layer_type(**{'in_channels': 16, 'out_channels': 16, **arguments})


@pytest.mark.parametrize('build', [*CONV_LAYERS, lambda *channels: fuse(XVolution(*channels))])
@pytest.mark.parametrize(
    'x, error, message',
    [
        (torch.rand(16, 9, 9), ValueError, r'takes \(B, 16, H, W\), H and W at least 1, got \(16, 9, 9\)'),
        (torch.rand(1, 4, 9, 9), ValueError, r'got \(1, 4, 9, 9\)'),
        (torch.rand(1, 16, 0, 9), ValueError, r'got \(1, 16, 0, 9\)'),
        (np.zeros((1, 16, 9, 9)), TypeError, 'takes a tensor, got ndarray'),
    ],
)
def test_wrong_inputs_are_named(build, x, error, message):
    with pytest.raises(error, match=message):
        build(16, 16)(x)
