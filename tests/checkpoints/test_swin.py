"""Layouts of Swin checkpoints. The outputs of converted networks are tested in tests/backbones."""

import re

import pytest
import torch

from mmacmix.backbones import ACmixSwinTransformer
from mmacmix.checkpoints import convert
from tests import golden

NORMS = ('norm0', 'norm1', 'norm2')
SECOND_PATH = re.compile(r'attn\.(rate1|rate2|fc\.weight|fc\.bias|dep_conv\.weight)$')


@pytest.fixture
def published():
    return golden.load('swin_tiny').state_dict


@pytest.fixture
def original(published):
    """A plain Swin of the original repository: the published network without the second path."""
    return {name: tensor for name, tensor in published.items() if not SECOND_PATH.search(name)}


def outputs(state_dict, size=(96, 130)):
    network = ACmixSwinTransformer('tiny').double().eval()
    network.load_state_dict(state_dict)
    with torch.no_grad():
        return network(golden.draw('image', (1, 3, *size)))


def test_the_published_network_loads_strictly_and_only_its_head_is_dropped(published):
    converted = convert(published, 'acmix-swin')
    ACmixSwinTransformer('tiny', out_indices=(3,)).load_state_dict(converted, strict=True)
    before = sum(tensor.numel() for name, tensor in published.items() if not name.startswith('head.'))
    after = sum(tensor.numel() for name, tensor in converted.items() if not name.endswith('_extra_state'))
    assert after == before


def test_original_layout_equals_the_published_network_with_rates_one_and_zero(published, original):
    for name in published:
        if name.endswith(('rate1', 'rate2')):
            published[name] = torch.full((1,), float(name.endswith('rate1')), dtype=torch.float64)
    for actual, expected in zip(
        outputs(convert(original, 'swin')), outputs(convert(published, 'acmix-swin')), strict=True
    ):
        torch.testing.assert_close(actual, expected)


def timm(state_dict):
    """Patch merging belongs to the stage that follows."""
    renamed = {}
    for name, tensor in state_dict.items():
        name = re.sub(r'layers\.(\d)\.downsample', lambda found: f'layers.{int(found[1]) + 1}.downsample', name)
        renamed[re.sub('^head', 'head.fc', name)] = tensor
    return renamed


def openmmlab(state_dict):
    """Other names, and the pixels of patch merging in the order of nn.Unfold: channels first."""
    renamed = {}
    for name, tensor in state_dict.items():
        if 'downsample' in name:
            channels = tensor.shape[-1] // 4
            rows_columns_channels = [
                (column * 2 + row) * channels + channel
                for channel in range(channels)
                for row in range(2)
                for column in range(2)
            ]
            tensor = tensor[..., rows_columns_channels]
        for theirs, ours in (
            ('layers.', 'stages.'),
            ('patch_embed.proj.', 'patch_embed.projection.'),
            ('.attn.', '.attn.w_msa.'),
            ('.mlp.fc1.', '.ffn.layers.0.0.'),
            ('.mlp.fc2.', '.ffn.layers.1.'),
        ):
            name = name.replace(theirs, ours)
        renamed[re.sub('^norm', 'norm3', name)] = tensor
    return renamed


def detector(state_dict):
    """A detector of the original repository."""
    renamed = {
        f'backbone.{re.sub("^norm", "norm3", name)}': tensor
        for name, tensor in state_dict.items()
        if not name.startswith('head')
    }
    norms = {
        f'backbone.norm{stage}.{leaf}': torch.ones(96 * 2**stage) for stage in range(3) for leaf in ('weight', 'bias')
    }
    return {**renamed, **norms}


def mmpretrain(state_dict):
    """A classifier of MMPretrain."""
    renamed = {}
    for name, tensor in openmmlab(state_dict).items():
        renamed[re.sub('^head', 'head.fc', name) if name.startswith('head') else f'backbone.{name}'] = tensor
    return renamed


@pytest.mark.parametrize('layout', [timm, openmmlab, mmpretrain, detector])
def test_layouts_hold_the_same_network(original, layout):
    original.update({'layers.0.blocks.1.attn_mask': torch.zeros(1)})  # computed, not learned
    expected = convert(original, 'swin')
    converted = convert(layout(original), 'swin')
    assert {name for name in converted if layout is not detector or name[:5] not in NORMS} == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith('_extra_state'):
            assert torch.equal(converted[name], tensor), name
    shifts = {bool(tensor) for name, tensor in converted.items() if name.endswith('_extra_state')}
    assert shifts == {layout in (openmmlab, detector)}


def test_optional_parameters_may_be_missing_or_added(original):
    kept = {
        name: tensor
        for name, tensor in original.items()
        if not name.endswith('qkv.bias') and 'patch_embed.norm' not in name and 'downsample.norm' not in name
    }
    kept['absolute_pos_embed'] = golden.draw('embedding', (1, 56 * 56, 96))
    network = ACmixSwinTransformer(
        'tiny', qkv_bias=False, patch_norm=False, use_abs_pos_embed=True, out_indices=(3,)
    ).double()
    network.load_state_dict(convert(kept, 'swin'))
    assert torch.equal(network.absolute_pos_embed[0, :, 3, 5], kept['absolute_pos_embed'][0, 3 * 56 + 5])


@pytest.mark.parametrize(
    'missing', ['layers.2.blocks.3.attn.proj.weight', 'patch_embed.proj.bias', 'layers.1.downsample.reduction.weight']
)
def test_missing_keys_are_named(original, missing):
    del original[missing]
    with pytest.raises(ValueError, match=f"not a checkpoint of 'swin': missing keys: {missing}$"):
        convert(original, 'swin')


def test_unknown_keys_are_named(published, original):
    with pytest.raises(
        ValueError, match=r'unknown keys: layers\.0\.blocks\.0\.attn\.dep_conv\.weight, .* and \d+ more'
    ):
        convert(published, 'swin')
    with pytest.raises(ValueError, match='missing keys: layers.0.blocks.0.attn.dep_conv.weight, '):
        convert(original, 'acmix-swin')
    with pytest.raises(ValueError, match='unknown keys: layers.0.logit_scale$'):
        convert({**original, 'layers.0.logit_scale': torch.ones(1)}, 'swin')
