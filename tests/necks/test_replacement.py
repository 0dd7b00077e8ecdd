"""ReplaceConvs replaces exactly the chosen convolutions, keeps everything else, and names what it cannot replace."""

import re

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmacmix.errors import UserError
from mmacmix.layers import CONV_LAYERS, ACmix, MixingLayer, XVolution
from mmacmix.necks import replace_convs
from tests.layers.definitions import randomised
from tests.tooling import ROOT

CSPNEXT = dict(type='mmdet.CSPNeXt', deepen_factor=0.167, widen_factor=0.25)
DARKNET = dict(type='mmdet.CSPDarknet', deepen_factor=0.33, widen_factor=0.25)
RESNET = dict(type='mmseg.ResNetV1c', depth=50, base_channels=16, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
PLAIN_STEM = dict(type='mmdet.ResNet', depth=18, base_channels=16)
YOLOX_NECK = dict(type='mmdet.YOLOXPAFPN', in_channels=[32, 64, 96], out_channels=32, num_csp_blocks=1)


def replaced(network, where, layer='ACmix', **arguments):
    return MODELS.build(dict(type='ReplaceConvs', network=network, where=where, layer=dict(type=layer), **arguments))


def layers_of(network):
    return {name: module for name, module in network.named_modules() if isinstance(module, MixingLayer)}


def inputs_of(network):
    if network is YOLOX_NECK:
        return [torch.randn(1, width, side, side) for width, side in ((32, 12), (64, 6), (96, 3))]
    return torch.randn(1, 3, 64, 70)


# The names are read from the hosts' code.
@pytest.mark.parametrize('layer', CONV_LAYERS)
@pytest.mark.parametrize(
    'network, where, names',
    [
        (CSPNEXT, r'stage4\..*conv1', ['stage4.2.blocks.0.conv1.conv']),
        # Between them is a 1x1 convolution, stage4.1.conv2.conv.
        (DARKNET, r'stage[34]\..*conv2', [*(f'stage3.1.blocks.{i}.conv2.conv' for i in range(3)),
                                          'stage4.2.blocks.0.conv2.conv']),
        (RESNET, r'^layer4\.[12]\.conv2$', ['layer4.1.conv2', 'layer4.2.conv2']),
        (YOLOX_NECK, 'up_blocks.*conv2', [f'bottom_up_blocks.{i}.blocks.0.conv2.conv' for i in range(2)]),
    ],
    ids=['CSPNeXt', 'CSPDarknet', 'ResNetV1c', 'YOLOXPAFPN'],
)  # fmt: skip
def test_the_convolutions_with_a_matching_name_are_replaced_and_trained(network, where, names, layer):
    built = replaced(network, where, layer.__name__)
    plain = MODELS.build(network)
    assert type(built) is type(plain)
    assert list(layers_of(built)) == names and {type(each) for each in layers_of(built).values()} == {layer}
    for each in (built, plain):
        each.eval()  # returns None in the hosts' networks
    maps = built(inputs_of(network))
    assert [m.shape for m in maps] == [m.shape for m in plain(inputs_of(network))]
    sum(m.square().sum() for m in maps).backward()
    missing = [name for name, p in built.named_parameters() if any(map(name.startswith, names)) and p.grad is None]
    assert missing == []


@pytest.mark.parametrize(
    'network, where',
    [(RESNET, r'layer\d'), (PLAIN_STEM, 'conv'), (CSPNEXT, 'stage'), (YOLOX_NECK, '')],
    ids=['dilated', 'stem', 'depthwise', 'neck'],
)
def test_the_layer_has_the_geometry_of_its_convolution(network, where):
    """An X-volution whose attention is 0 and whose normalisation is the identity is its convolution."""
    plain = randomised(MODELS.build(network))
    built = randomised(replace_convs(MODELS.build(network), where, dict(type='XVolution')))
    state_dict = plain.state_dict()
    with torch.no_grad():
        for name, layer in layers_of(built).items():
            nn.init.zeros_(layer.attention_norm.weight)
            nn.init.zeros_(layer.attention_norm.bias)
            layer.conv_norm = nn.Identity()
            state_dict[f'{name}.conv.weight'] = state_dict.pop(f'{name}.weight')
        unfilled = built.load_state_dict(state_dict, strict=False)
        assert not unfilled.unexpected_keys and all('attention' in name for name in unfilled.missing_keys)
        x = inputs_of(network)
        x = [each.double() for each in x] if isinstance(x, list) else x.double()
        torch.testing.assert_close(built(x), plain(x))


def test_biases_are_kept_and_loaded():
    network = nn.Sequential(nn.Conv2d(8, 8, 3, padding='same'), nn.Conv2d(8, 16, 3, 2, 1, bias=False))
    biases = {name: tensor for name, tensor in network.state_dict().items() if 'bias' in name}
    replace_convs(network, '', dict(type='ACmix'))
    network.load_state_dict(biases, strict=False)
    assert torch.equal(network[0].bias, biases['0.bias']) and network[1].bias is None
    assert network(torch.rand(1, 8, 5, 6)).shape == (1, 16, 3, 3)


@pytest.mark.parametrize('layer', CONV_LAYERS)
def test_pretrained_weights_of_the_plain_network_load_into_the_rest(layer, tmp_path):
    plain = randomised(MODELS.build(CSPNEXT)).float()
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'plain.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth'))
    built = replaced(dict(CSPNEXT, init_cfg=pretrained), r'stage4\..*conv1', layer.__name__)
    built.init_weights()
    expected = plain.state_dict()
    assert expected.pop('stage4.2.blocks.0.conv1.conv.weight') is not None
    own = built.state_dict()
    assert [name for name in expected if not torch.equal(own.pop(name), expected[name])] == []
    assert own and all(name.startswith('stage4.2.blocks.0.conv1.conv.') for name in own)


def test_a_segmentor_with_pretrained_weights_takes_it_as_its_backbone(tmp_path):
    init_default_scope('mmseg')
    network = dict(RESNET, type='ResNetV1c')
    plain = randomised(MODELS.build(network)).float()
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    norm = dict(type='BN')
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor'),
        pretrained=str(tmp_path / 'plain.pth'),  # which the segmentor adds to the backbone's config
        backbone=dict(type='ReplaceConvs', network=network, where=r'layer4\..*conv2', layer=dict(type='ACmix')),
        decode_head=dict(type='FCNHead', in_channels=512, channels=8, in_index=3, num_classes=2, norm_cfg=norm),
    )
    segmentor = MODELS.build(ConfigDict(model))
    segmentor.init_weights()
    assert torch.equal(segmentor.backbone.layer4[0].conv1.weight, plain.layer4[0].conv1.weight)
    assert isinstance(segmentor.backbone.layer4[0].conv2, ACmix)
    segmentor.eval()
    assert segmentor(torch.rand(1, 3, 64, 64))[0].shape == (2, 8, 8)


def test_frozen_convolutions_are_refused():
    network = dict(PLAIN_STEM, frozen_stages=1)
    assert layers_of(replaced(network, r'layer2\.0\.conv2'))
    with pytest.raises(UserError, match=r'^layer1\.0\.conv2 cannot be replaced: it is frozen, so the layer would keep'):
        replaced(network, r'layer[12]\.0\.conv2')


def test_data_types_and_modes_are_kept():
    network = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)).eval()
    assert not replace_convs(network, '0', dict(type='ACmix'))[0].training
    double = replace_convs(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)).double(), '0', dict(type='LESA'))
    assert {p.dtype for p in double.parameters()} == {torch.float64}


def test_arguments_beside_the_network_are_those_of_the_network():
    built = replaced(dict(PLAIN_STEM, out_indices=(0,)), 'layer1', out_indices=(1, 2))
    assert built.out_indices == (1, 2)


def test_a_shared_convolution_becomes_a_shared_layer():
    cfg = Config.fromfile(ROOT / 'configs/rtmdet/rtmdet_tiny_acmix-p3_8xb32-300e_coco.py')
    init_default_scope('mmdet')
    head = MODELS.build(dict(cfg.model.bbox_head, in_channels=8, feat_channels=8, train_cfg=None, test_cfg=None))
    before = [level[0].conv for level in head.cls_convs]
    assert len(set(before)) == 1 and len(before) == 3
    replace_convs(head, r'cls_convs\.0\.0', dict(type='ACmix'))
    after = [level[0].conv for level in head.cls_convs]
    assert len(set(after)) == 1 and isinstance(after[0], ACmix)
    assert isinstance(head.cls_convs[2][1].conv, nn.Conv2d)


def test_convolutions_inside_layers_of_this_package_stay():
    inner = dict(type='ReplaceConvs', network=DARKNET, where='stage4.*conv2', layer=dict(type='XVolution'))
    built = replaced(inner, 'stage[34].*conv2')
    assert [type(each) for each in layers_of(built).values()] == [ACmix] * 3 + [XVolution]


def test_one_network_takes_two_layers():
    built = replaced(dict(type='ReplaceConvs', network=DARKNET, where='stage3.*conv2', layer=dict(type='XVolution')),
                     'stage4.*blocks.*conv2')  # fmt: skip
    assert [type(each) for each in layers_of(built).values()] == [XVolution] * 3 + [ACmix]


@pytest.mark.parametrize(
    'network, where, layer, message',
    [
        (
            CSPNEXT,
            'layer4',
            'ACmix',
            r"^where='layer4' finds no convolution larger than 1x1 in CSPNeXt; their names: stem\.0\.conv to "
            r'stage4\.2\.blocks\.0\.conv2\.depthwise_conv\.conv$',
        ),
        (CSPNEXT, r'stage4\.1\.conv2', 'ACmix', 'finds no convolution larger than 1x1'),  # it is 1x1
        (CSPNEXT, r'stage4\..*bn', 'ACmix', 'finds no convolution larger than 1x1'),
        (CSPNEXT, '(stage', 'ACmix', r"^where must be a regular expression, got '\(stage': missing \)"),
        (CSPNEXT, None, 'ACmix', '^where must be a regular expression, got None'),
        (
            CSPNEXT,
            r'stage4\..*conv2',
            'ACmix',
            r'^stage4\.2\.blocks\.0\.conv2\.depthwise_conv\.conv cannot be replaced: ACmix has no groups: groups must '
            'be 1, got 128$',
        ),
        (CSPNEXT, 'stem.0', 'LESA', r'^stem\.0\.conv .*: in_channels must be a multiple of num_heads, got 3 and 8$'),
        (nn.Conv2d(8, 6, 3, padding=1), '0', 'ACmix', r'^0 .*: out_channels must be a multiple of num_heads, got 6'),
        (nn.Conv2d(8, 8, 4, padding=1), '0', 'XVolution', r'^0 .*: kernel_size must be odd, .*, got 4$'),
        (nn.Conv2d(8, 8, (3, 1), padding=1), '0', 'LESA', r'^0 .*: LESA is square: kernel_size .*, got \(3, 1\)$'),
        (nn.Conv2d(8, 8, 3), '0', 'ACmix', r'^0 cannot be replaced: ACmix has "same" padding: .* got \(0, 0\)$'),
        (nn.Conv2d(8, 8, 3, padding='valid'), '0', 'ACmix', r'^0 cannot .*: ACmix has "same" padding: .* got 0$'),
        (nn.Conv2d(8, 8, 3, padding=1), '0', 'Acmix', r"^0 .*: layer must have a registered type, such as .*'Acmix'}$"),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode='reflect'), '0', 'ACmix', '^0 must be a Conv2d that pads with z'),
        (nn.ConvTranspose2d(8, 8, 3), '0', 'ACmix', '^0 must be a Conv2d .*, got ConvTranspose2d'),
        (nn.Conv1d(8, 8, 3), '0', 'ACmix', '^0 must be a Conv2d .*, got Conv1d'),
        (nn.Conv2d(8, 8, 1), '0', 'ACmix', 'in Sequential; their names: there are none$'),
    ],
)
def test_what_cannot_be_replaced_is_named_and_nothing_changes(network, where, layer, message):
    network = MODELS.build(network) if isinstance(network, dict) else nn.Sequential(network)
    before = dict(network.named_modules())
    with pytest.raises(UserError, match=message) as caught:
        replace_convs(network, where, dict(type=layer))
    assert '\n' not in str(caught.value)
    assert dict(network.named_modules()) == before


def test_arguments_of_the_convolution_are_not_those_of_the_layer():
    message = r"layer must be a dict without bias, .*, got {'type': 'ACmix', 'kernel_size': 5}"
    with pytest.raises(ValueError, match=message):
        replace_convs(nn.Sequential(nn.Conv2d(8, 8, 3)), '0', dict(type='ACmix', kernel_size=5))


def test_names_in_messages_can_be_used_as_patterns():
    with pytest.raises(UserError) as caught:
        replace_convs(MODELS.build(PLAIN_STEM), 'none', dict(type='ACmix'))
    name = re.search(r'to (\S+)$', str(caught.value))[1]
    assert list(layers_of(replace_convs(MODELS.build(PLAIN_STEM), re.escape(name), dict(type='ACmix')))) == [name]


@pytest.mark.parametrize(
    'layer, message',
    [
        (dict(), "layer must have a registered type, such as dict.type='ACmix'., got {}"),
        (dict(type='ACmix', num_head=2), "layer={'type': 'ACmix', 'num_head': 2} cannot be built: .* 'num_head'"),
    ],
)
def test_a_wrong_config_of_the_layer_is_named(layer, message):
    with pytest.raises(UserError, match=message) as caught:
        replace_convs(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)), '0', layer)
    assert '\n' not in str(caught.value)
