"""Layouts of PVT checkpoints. The outputs of converted networks are tested in tests/backbones."""

import pytest
import torch

from mmacmix.backbones import ACmixPyramidVisionTransformer
from mmacmix.checkpoints import convert


@pytest.fixture(scope='module')
def openmmlab():
    from mmdet.models.backbones import PyramidVisionTransformer

    torch.manual_seed(0)
    return PyramidVisionTransformer(num_layers=(1, 2, 1, 1)).state_dict()


@pytest.fixture
def original(openmmlab):
    """A classifier of the original repository."""
    renamed = {'cls_token': torch.zeros(1, 1, 512)}
    renamed.update({f'{name}.{leaf}': torch.zeros(1) for name in ('norm', 'head') for leaf in ('weight', 'bias')})
    for name, tensor in openmmlab.items():
        parts = name.split('.')
        stage, inner = int(parts[1]) + 1, '.'.join(parts[4:])
        if parts[2] == '0':
            renamed[f'patch_embed{stage}.{".".join(parts[3:])}'.replace('projection', 'proj')] = tensor
        elif inner == 'pos_embed':
            token = torch.full((1, int(stage == 4), tensor.shape[2]), 9.0)
            renamed[f'pos_embed{stage}'] = torch.cat((token, tensor), 1)
        else:
            block = f'block{stage}.{int(parts[3]) - 1}.'
            if 'in_proj' in inner:
                leaf = inner.split('_')[-1]
                channels = len(tensor) // 3
                renamed[f'{block}attn.q.{leaf}'], renamed[f'{block}attn.kv.{leaf}'] = tensor.split(
                    (channels, 2 * channels)
                )
                continue
            for theirs, ours in (
                ('attn.attn.out_proj', 'attn.proj'),
                ('ffn.layers.0', 'mlp.fc1'),
                ('ffn.layers.3', 'mlp.fc2'),
            ):
                inner = inner.replace(theirs, ours)
            renamed[block + inner] = tensor.flatten(1) if 'mlp' in inner and tensor.dim() == 4 else tensor
    return renamed


def test_both_layouts_give_the_same_network(openmmlab, original):
    expected, actual = convert(openmmlab, 'pvt'), convert(original, 'pvt')
    assert set(actual) - set(expected) == {'norm.weight', 'norm.bias'}  # MMDetection's backbone has none
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


def test_the_normalisation_of_a_classifier_is_loaded_if_the_network_has_one(openmmlab, original):
    original['norm.weight'], original['norm.bias'] = torch.rand(512), torch.rand(512)
    network = ACmixPyramidVisionTransformer(dict(depths=(1, 2, 1, 1)), final_norm=True)
    network.load_state_dict(convert(openmmlab, 'pvt'))
    assert (network.norm.weight == 1).all()
    network.load_state_dict(convert(original, 'pvt'))
    assert torch.equal(network.norm.weight, original['norm.weight'])
    ACmixPyramidVisionTransformer(dict(depths=(1, 2, 1, 1))).load_state_dict(convert(original, 'pvt'))


def test_other_networks_are_refused(openmmlab):
    with pytest.raises(ValueError, match="not a checkpoint of 'pvt': it has no stages"):
        convert({}, 'pvt')
    name = 'layers.0.1.0.pos_embed'
    with pytest.raises(ValueError, match='patch_embeds.0.position has 96 positions, which is not a square'):
        convert({**openmmlab, name: openmmlab[name][:, :96]}, 'pvt')


def test_the_second_path_starts_with_rate_0_and_trains(openmmlab):
    network = ACmixPyramidVisionTransformer(dict(depths=(1, 2, 1, 1)))
    network.load_state_dict(convert(openmmlab, 'pvt'), strict=True)
    for stage in network.stages:
        for block in stage:
            assert (block.attn.attention_rate.item(), block.attn.conv_rate.item()) == (1, 0)
            assert block.attn.shift_conv.mixing.std() > 0
    sum(m.square().sum() for m in network.eval()(torch.rand(1, 3, 64, 64))).backward()
    assert network.stages[0][0].attn.conv_rate.grad.item()


def test_unknown_and_missing_keys_are_named(openmmlab):
    broken = dict(openmmlab, surprise=torch.zeros(1))
    del broken['layers.1.1.2.norm2.bias']
    with pytest.raises(ValueError, match=r"'pvt': unknown keys: surprise; missing keys: layers\.1\.1\.2\.norm2\.bias"):
        convert(broken, 'pvt')
