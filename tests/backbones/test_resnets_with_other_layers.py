"""X-volution and LESA in ResNets: which blocks have them, parameters, arguments. See also test_acmix_resnet.py."""

import importlib

import pytest
import torch
from torch import nn

from mmacmix.backbones import LESAResNet, XVolutionResNet
from mmacmix.layers import LESA, XVolution
from mmacmix.ops import ceil_div


def small(network, **arguments):
    return network(**{'depth': 50, 'base_channels': 16, 'norm_eval': False, **arguments})


def kinds(network, convolutions=('conv2',)):
    """Types of the 3x3 convolutions, stage by stage."""
    return [
        [type(getattr(block, name)) for block in getattr(network, stage) for name in convolutions]
        for stage in network.res_layers
    ]


def test_x_volution_is_in_the_third_stage():
    plain = nn.Conv2d
    assert kinds(small(XVolutionResNet)) == [[plain] * 3, [plain] * 4, [XVolution] * 6, [plain] * 3]
    both = kinds(small(XVolutionResNet, depth=34), ('conv1', 'conv2'))
    assert both == [[plain] * 6, [plain] * 8, [XVolution] * 12, [plain] * 6]
    chosen = kinds(small(XVolutionResNet, depth=26, stage_with_xvolution=(True, False, False, True)))
    assert chosen == [[XVolution], [plain] * 2, [plain] * 4, [XVolution]]


def test_lesa_is_in_the_fourth_stage_and_all_but_the_first_block_of_the_third():
    plain = nn.Conv2d
    assert kinds(LESAResNet(base_channels=16)) == [[plain] * 3, [plain] * 4, [plain] + [LESA] * 5, [LESA] * 3]
    last = kinds(small(LESAResNet, stage_with_lesa=(False, False, False, True)))
    assert last[2:] == [[plain] * 6, [plain, LESA, LESA]]


@pytest.mark.parametrize('height, width', [(33, 65), (96, 40)])
def test_basic_blocks_take_any_size(height, width):
    maps = small(XVolutionResNet, depth=34).eval()(torch.rand(2, 3, height, width))
    assert [m.shape[1:] for m in maps] == [
        (channels, ceil_div(height, stride), ceil_div(width, stride))
        for channels, stride in zip((16, 32, 64, 128), (4, 8, 16, 32), strict=True)
    ]
    assert all(m.is_contiguous() and m.isfinite().all() for m in maps)


def test_depth_34_without_x_volution_equals_the_hosts_resnet():
    from mmdet.models.backbones import ResNet

    plain = ResNet(34, base_channels=8, norm_eval=False).double()
    ours = small(XVolutionResNet, depth=34, base_channels=8, stage_with_xvolution=(False,) * 4).double()
    ours.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    for expected, actual in zip(plain(images), ours(images), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('network, depth', [(XVolutionResNet, 34), (XVolutionResNet, 50), (LESAResNet, 50)])
def test_the_layers_account_for_all_additional_parameters(network, depth):
    layer, mixed = network.layer, network(depth)
    plain = network(depth, **{f'stage_with_{layer.__name__.lower()}': (False,) * 4})
    numbers = [sum(p.numel() for p in each.parameters()) for each in (mixed, plain)]
    widths = [(m.in_channels, m.out_channels) for m in mixed.modules() if isinstance(m, layer)]
    if layer is XVolution:  # eight neighbours besides nine taps, and two normalisations
        more = sum(8 * inside * outside + 4 * outside for inside, outside in widths)
    else:  # nine taps in groups, 1x1, projections, gate, six normalisations, positions, and that of the logits
        more = sum(c * c * (9 / 8 + 1 + 2 + 3 - 9) + c * 2 * (1 + 2 + 1 + 2) + 2 * 27 * c / 16 + 16 for c, _ in widths)
    assert numbers[0] - numbers[1] == more


def test_blocks_are_initialised_as_their_shortcut():
    network = small(XVolutionResNet, depth=34)
    network.init_weights()
    assert not network.layer3[1].bn2.weight.any() and network.layer3[1].bn1.weight.all()
    assert network.layer3[1].conv1.attention_norm.weight.all()


@pytest.mark.parametrize('network', [XVolutionResNet, LESAResNet])
def test_arguments_reach_every_layer(network):
    name = network.layer.__name__.lower()
    argument = dict(xvolution=dict(shift_distance=2), lesa=dict(position_size=3))[name]
    layers = [m for m in small(network, **{name: argument}).modules() if isinstance(m, network.layer)]
    if network is XVolutionResNet:
        assert all((-2, 2) in layer.offsets for layer in layers)
    else:
        assert all(layer.row_positions.shape[1] == 5 for layer in layers)


@pytest.mark.parametrize('network', [XVolutionResNet, LESAResNet])
def test_layers_have_the_normalisation_of_the_network_unless_they_set_their_own(network):
    name, groups = network.layer.__name__.lower(), dict(type='GN', num_groups=4)
    layers = [m for m in small(network, norm_cfg=groups).modules() if isinstance(m, network.layer)]
    assert all(any(isinstance(m, nn.GroupNorm) for m in layer.modules()) for layer in layers)
    layer = small(network, norm_cfg=groups, **{name: dict(norm_cfg=dict(type='BN'))}).layer3[-1].conv2
    assert not any(isinstance(m, nn.GroupNorm) for m in layer.modules())


@pytest.mark.parametrize('layer', [XVolution, LESA])
@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_inside_the_hosts_own_resnet(host, layer):
    resnet = importlib.import_module(f'{host}.models.backbones').ResNet
    network = resnet(
        depth=50,
        base_channels=16,
        norm_eval=False,
        dcn=dict(type=layer.__name__),
        stage_with_dcn=(False, False, True, False),
    )
    network.init_weights()
    assert isinstance(network.layer3[0].conv2, layer) and isinstance(network.layer2[0].conv2, nn.Conv2d)
    maps = network(torch.rand(2, 3, 65, 97))
    assert [m.shape[2:] for m in maps] == [(17, 25), (9, 13), (5, 7), (3, 4)]
    sum(m.sum() for m in maps).backward()


@pytest.mark.parametrize(
    'network, arguments, message',
    [
        (XVolutionResNet, dict(depth=18), r'depth must be one of \(26, 38, 50, 101, 34\), got 18'),
        (LESAResNet, dict(depth=34), r'depth must be one of \(26, 38, 50, 101\), got 34'),
        (XVolutionResNet, dict(stage_with_xvolution=(True,)), r'stage_with_xvolution must have an entry for each of 4'),
        (LESAResNet, dict(stage_with_lesa=None), 'stage_with_lesa must have an entry for each of 4 stages, got None'),
        (
            XVolutionResNet,
            dict(xvolution=dict(kernel_size=5)),
            r"must be a dict without bias, .*, got {'kernel_size': 5}",
        ),
        (LESAResNet, dict(lesa=None), 'lesa must be a dict without .*, got None'),
        (LESAResNet, dict(lesa=dict(num_heads=7)), 'in_channels must be a multiple of num_heads, got 64 and 7'),
    ],
)
def test_bad_arguments_are_named(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        small(network, **arguments)
