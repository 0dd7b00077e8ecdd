"""ACmix-PVT: equality with the hosts' PVT, position embeddings, initialisation and arguments."""

import pytest
import torch
from torch import nn

from mmacmix.backbones import ACmixPyramidVisionTransformer
from mmacmix.checkpoints import convert
from tests import golden


def small(**arguments):
    arch = dict(depths=(1, 2, 1), embed_dims=(8, 16, 24), num_heads=(1, 2, 3), mlp_ratios=(2, 2, 2))
    return ACmixPyramidVisionTransformer(**{'arch': arch, 'out_indices': (0, 1, 2), **arguments})


@pytest.fixture(scope='module')
def host():
    from mmdet.models.backbones import PyramidVisionTransformer

    torch.manual_seed(0)
    network = PyramidVisionTransformer(num_layers=(2, 2, 2, 2))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    network.eval()
    return network


@pytest.mark.parametrize('height, width', [(224, 224), (200, 333), (64, 96)])
def test_plain_pvt_converted_equals_the_hosts_plain_pvt(host, height, width):
    network = ACmixPyramidVisionTransformer('tiny').eval()
    network.load_state_dict(convert(host.state_dict(), 'pvt'))
    images = torch.randn(1, 3, height, width)
    with torch.no_grad():
        for actual, expected in zip(network(images), host(images), strict=True):
            assert actual.shape == expected.shape
            assert golden.relative_error(actual, expected.double()) <= 1e-5


# A classifier also has the last stage's normalisation, a class token with its position embedding, and the head.
@pytest.mark.parametrize('arch, published', [('tiny', 13), ('small', 25)])
def test_number_of_parameters_rounds_to_the_published_one(arch, published):
    backbone = sum(p.numel() for p in ACmixPyramidVisionTransformer(arch).parameters())
    assert round((backbone + 4 * 512 + 512 * 1000 + 1000) / 1e6) == published


def test_position_embeddings_of_another_size_are_resized():
    checkpoint = small(pretrain_img_size=64)
    network = small(pretrain_img_size=96)
    checkpoint.patch_embeds[1].position.data = torch.linspace(0, 1, 8).expand(1, 16, 8, 8).contiguous()
    network.load_state_dict(checkpoint.state_dict())
    position = network.patch_embeds[1].position
    assert position.shape == (1, 16, 12, 12)
    assert (position.diff(dim=3)[..., 1:-1] > 0).all() and position.diff(dim=2).abs().max() < 1e-6


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3])
def test_patch_embeddings_freeze_with_their_stages(frozen):
    network = small(frozen_stages=frozen, final_norm=True).train()
    for stage in range(3):
        trains = {p.requires_grad for p in network.patch_embeds[stage].parameters()}
        assert trains == {frozen <= stage and not (stage == 0 and frozen == 0)}
    assert network.norm.weight.requires_grad == (frozen < 3)


def test_initialisation():
    network = small()
    network.init_weights()
    attention = network.stages[1][0].attn
    assert attention.query.weight.std().item() == pytest.approx(0.02, rel=0.2)
    fan_out = 8 * 4 * 4
    assert network.patch_embeds[0].projection.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.2)


def test_convert_weights_loads_an_unconverted_file(tmp_path, host):
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in host.state_dict().items()}), tmp_path / 'weights.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    network = ACmixPyramidVisionTransformer('tiny', convert_weights=True, init_cfg=init_cfg)
    network.init_weights()
    for name, tensor in convert(host.state_dict(), 'pvt').items():
        assert '.shift_conv.' in name or torch.equal(network.state_dict()[name], tensor), name


def test_reductions_is_a_deprecated_name_of_sr_ratios():
    arch = dict(depths=(1, 1), sr_ratios=(4, 2))
    with pytest.warns(DeprecationWarning, match="'reductions' of arch is now called 'sr_ratios'") as warnings:
        network = small(arch=dict(depths=(1, 1), reductions=(4, 2)), out_indices=(1,))
    assert warnings[0].filename == __file__
    network.load_state_dict(small(arch=arch, out_indices=(1,)).state_dict())
    assert [stage[0].attn.sr_ratio for stage in network.stages] == [4, 2]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(arch='huge'), "arch must be one of .*'tiny', 'small', 'medium', 'large'.* got 'huge'"),
        (dict(arch=dict(embed_dims=(8,))), r"dict of depths and optionally .* got {'embed_dims': \(8,\)}"),
        (dict(patch_sizes=(4, 2)), r'patch_sizes must have an entry for each of 3 stages, got \(4, 2\)'),
        (dict(convert_weights=True, init_cfg=dict(type='Xavier')), "convert_weights needs init_cfg=dict.*'Xavier'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)
