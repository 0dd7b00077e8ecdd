"""ACmix-ResNet: equality with the published network and the hosts' ResNet, and the arguments of all ResNets here."""

import importlib

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmacmix.backbones import ACmixResNet
from mmacmix.checkpoints import convert
from mmacmix.layers import ACmix
from tests import golden
from tests.conftest import needs_torch


def small(**arguments):
    return ACmixResNet(**{'depth': 26, 'base_channels': 8, **arguments})


def test_equals_the_published_network():
    case = golden.load('resnet26')
    network = ACmixResNet(26).eval()
    network.load_state_dict(convert(case.state_dict, 'acmix-resnet'))
    with torch.no_grad():
        maps = network(case.x.float())
    for stage, stage_map in enumerate(maps):
        thinned = stage_map[:, :: case.arguments['channel_stride']]
        assert golden.relative_error(thinned, case.results[f'stage{stage}']) <= 1e-5, stage
    pooled = maps[-1].mean((2, 3)).double()
    logits = nn.functional.linear(pooled, case.state_dict['fc.weight'], case.state_dict['fc.bias'])
    assert golden.relative_error(logits, case.results['logits']) <= 1e-5


@pytest.mark.parametrize('depth, parameters', [(26, 8_438_816), (38, 12_361_896), (50, 16_284_976)])
def test_has_the_published_number_of_parameters(depth, parameters):
    assert sum(p.numel() for p in ACmixResNet(depth).parameters()) == parameters


def test_depth_101_has_the_blocks_of_resnet_101():
    assert [len(getattr(small(depth=101), f'layer{stage}')) for stage in (1, 2, 3, 4)] == [3, 4, 23, 3]


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_maps_have_the_memory_format_of_the_images(memory_format):
    images = torch.rand(2, 3, 64, 96).contiguous(memory_format=memory_format)
    assert all(m.is_contiguous(memory_format=memory_format) for m in small()(images))


def test_strides_and_dilations():
    maps = small(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))(torch.rand(1, 3, 64, 64))
    assert [m.shape[2] for m in maps] == [16, 8, 8, 8]


def test_out_indices_and_number_of_stages():
    network = small(num_stages=3, out_indices=(0, 2))
    assert [m.shape[1] for m in network(torch.rand(1, 3, 64, 64))] == [32, 128]
    assert not hasattr(network, 'layer4')


def test_deep_stem_and_channels():
    network = small(deep_stem=True, stem_channels=16, in_channels=4)
    assert network(torch.rand(1, 4, 64, 64))[0].shape == (1, 32, 16, 16)
    assert [type(m) for m in network.stem][::3] == [nn.Conv2d] * 3


def test_stage_with_acmix_keeps_plain_convolutions_elsewhere():
    network = small(stage_with_acmix=(False, False, True, True))
    kinds = [{type(block.conv2) for block in getattr(network, f'layer{stage}')} for stage in (1, 2, 3, 4)]
    assert kinds == [{nn.Conv2d}, {nn.Conv2d}, {ACmix}, {ACmix}]


@pytest.mark.parametrize('style', ['pytorch', 'caffe'])
def test_plain_stages_equal_the_hosts_resnet(style):
    from mmdet.models.backbones import ResNet

    plain = ResNet(50, base_channels=8, style=style, norm_eval=False).double()
    ours = small(depth=50, stage_with_acmix=(False,) * 4, style=style, norm_eval=False).double()
    ours.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    for expected, actual in zip(plain(images), ours(images), strict=True):
        torch.testing.assert_close(actual, expected)


def test_acmix_arguments_reach_every_layer():
    network = small(acmix=dict(num_heads=2, attention_kernel_size=5, backend='reference'))
    layers = [m for m in network.modules() if isinstance(m, ACmix)]
    assert len(layers) == 8
    assert all((m.num_heads, m.attention_kernel_size, m.backend) == (2, 5, 'reference') for m in layers)


def test_norm_cfg():
    network = small(norm_cfg=dict(type='GN', num_groups=4))
    assert isinstance(network.layer1[0].gn2, nn.GroupNorm)
    assert not any(isinstance(m, _BatchNorm) for m in network.modules())
    network.init_weights()
    assert network.layer1[0].gn3.weight.abs().max() == 0


@pytest.mark.parametrize('zero_init', [True, False])
def test_initialisation(zero_init):
    network = small(zero_init_residual=zero_init)
    network.init_weights()
    block = network.layer2[1]
    assert torch.equal(block.bn3.weight, torch.full((64,), 0.0 if zero_init else 1.0))
    layer = block.conv2
    assert torch.equal(layer.shift_conv.weight, ACmix(16, 16).shift_conv.weight)
    assert layer.attention_rate == layer.conv_rate == 0.5
    assert layer.query.weight.std().item() == pytest.approx((2 / 16) ** 0.5, rel=0.3)  # Kaiming, fan out


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_acmix_inside_the_hosts_own_resnet(host):
    resnet = importlib.import_module(f'{host}.models.backbones').ResNet
    network = resnet(
        depth=50, base_channels=8, dcn=dict(type='ACmix', num_heads=2), stage_with_dcn=(False, True, True, True)
    )
    network.init_weights()
    assert isinstance(network.layer2[0].conv2, ACmix) and isinstance(network.layer1[0].conv2, nn.Conv2d)
    assert torch.equal(network.layer2[0].conv2.shift_conv.weight, ACmix(16, 16).shift_conv.weight)
    maps = network(torch.rand(1, 3, 65, 97))
    assert [m.shape[2:] for m in maps] == [(17, 25), (9, 13), (5, 7), (3, 4)]
    assert all(m.is_contiguous() for m in maps)  # as mmcv's RoIAlign requires
    sum(m.sum() for m in maps).backward()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(depth='50'), r"depth must be one of \(26, 38, 50, 101\), got '50'"),
        (dict(stage_with_acmix=True), 'stage_with_acmix must have an entry for each of 4 stages, got True'),
        (dict(depth=34), r'depth must be one of \(26, 38, 50, 101\), got 34'),
        (dict(num_stages=5), 'num_stages must be one of .1, 2, 3, 4., got 5'),
        (dict(strides=(1, 2)), r'strides must have an entry for each of 4 stages, got \(1, 2\)'),
        (dict(acmix=dict(num_heads=3)), 'out_channels must be a multiple of num_heads, got 8 and 3'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


@pytest.mark.slow
@needs_torch('2.4', 'compiling without graph breaks')
def test_is_compiled_once_for_all_sizes_after_the_first():
    torch.compiler.reset()  # forget the sizes of other tests
    graphs = []

    def record(module, inputs):
        graphs.append(module)
        return module

    network = ACmixResNet(26).eval()
    compiled = torch.compile(network, backend=record, fullgraph=True)
    # The first size is compiled as a constant; any other as a variable.
    for count, size in ((1, (64, 96)), (2, (96, 64)), (2, (96, 128)), (2, (224, 320)), (2, (64, 64))):
        x = torch.rand(2, 3, *size)
        with torch.no_grad():
            for actual, expected in zip(compiled(x), network(x), strict=True):
                torch.testing.assert_close(actual, expected)
        assert len(graphs) == count
