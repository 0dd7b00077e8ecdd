"""Swin Transformers: the published ACmix-Swin (LeapLabTHU/ACmix), and plain ones in common layouts."""

from typing import NamedTuple

import torch
from torch import Tensor

from .acmix import reshape_mixing
from .keys import blocks_of, dropped, leaves, rename, without_backbone_prefix
from .second_path import add_second_path

_SECOND_PATH = {
    'rate1': 'attention_rate',
    'rate2': 'conv_rate',
    'fc.weight': 'shift_conv.mixing',
    'fc.bias': 'shift_conv.mixing_bias',
    'dep_conv.weight': 'shift_conv.weight',
}
_COMPUTED = ('attn_mask', 'relative_position_index')  # buffers without learned values
_TABLE = '.relative_position_bias_table'


class _Layout(NamedTuple):
    """Module names of a code base, and its conventions."""

    stages: str
    embedding: str
    attention: str
    mlp: tuple[str, str]  # two linear layers
    merging_offset: int  # 1 if patch merging belongs to the stage that follows
    unfolded: bool  # merged pixels are ordered as in nn.Unfold
    shift_single_window: bool  # see WindowACmix


_ORIGINAL = _Layout('layers', 'patch_embed.proj', 'attn', ('mlp.fc1', 'mlp.fc2'), 0, False, False)
_TIMM = _ORIGINAL._replace(merging_offset=1)
_OPENMMLAB = _Layout(
    'stages', 'patch_embed.projection', 'attn.w_msa', ('ffn.layers.0.0', 'ffn.layers.1'), 0, True, True
)
_MMPRETRAIN = _OPENMMLAB._replace(shift_single_window=False)


def convert_acmix_swin(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published classifier of any size -> ``mmacmix.backbones.ACmixSwinTransformer``, without the ``head``."""
    return _convert(state_dict, _ORIGINAL, 'acmix-swin')


def convert_swin(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain Swin -> a network with equal output: attention has rate 1, the convolution path rate 0 until it trains.

    Layouts: the original repository, MMDetection, MMSegmentation, MMPretrain and timm.
    """
    state_dict = without_backbone_prefix(state_dict)
    if any(name.startswith('stages.') for name in state_dict):
        layout = _MMPRETRAIN if 'head.fc.weight' in state_dict else _OPENMMLAB
    elif any(name.startswith('layers.0.downsample') for name in state_dict):
        # The original repository's detectors and segmentors, which have a normalisation per stage, always shift.
        layout = _ORIGINAL._replace(shift_single_window='norm0.weight' in state_dict)
    else:
        layout = _TIMM
    converted = _convert(state_dict, layout, 'swin')
    heads = {name.removesuffix(_TABLE): tensor.shape[1] for name, tensor in converted.items() if name.endswith(_TABLE)}
    return add_second_path(converted, heads)


def _convert(state_dict: dict[str, Tensor], layout: _Layout, source: str) -> dict[str, Tensor]:
    blocks = blocks_of(state_dict, rf'{layout.stages}\.(\d+)\.blocks\.(\d+)\.')
    last = blocks[-1][0] if blocks else 0
    optional = leaves({'patch_embed.norm': 'patch_embed.norm', 'norm': f'norm{last}'}) | dropped('head', 'head.fc')
    optional |= leaves({f'norm{stage}': f'norm{stage}' for stage in range(last + 1)})
    optional['absolute_pos_embed'] = 'absolute_pos_embed'
    names = leaves({layout.embedding: 'patch_embed.projection'})
    fc1, fc2 = layout.mlp
    modules = {'norm1': 'norm1', 'norm2': 'norm2', fc1: 'ffn.0', fc2: 'ffn.3', f'{layout.attention}.proj': 'attn.proj'}
    extra_state = {}
    for stage, block in blocks:
        theirs, ours = f'{layout.stages}.{stage}.blocks.{block}.', f'stages.{stage}.{block}.'
        qkv = f'{layout.attention}.qkv'
        names |= leaves(modules, theirs, ours)
        names[f'{theirs}{qkv}.weight'] = f'{ours}attn.qkv.weight'
        optional[f'{theirs}{qkv}.bias'] = f'{ours}attn.qkv.bias'
        names[f'{theirs}{layout.attention}{_TABLE}'] = f'{ours}attn{_TABLE}'
        if source == 'acmix-swin':
            names |= {f'{theirs}attn.{name}': f'{ours}attn.{new}' for name, new in _SECOND_PATH.items()}
        extra_state[f'{ours}attn._extra_state'] = torch.tensor(layout.shift_single_window)
    for stage in range(last):
        theirs, ours = f'{layout.stages}.{stage + layout.merging_offset}.downsample.', f'downsamples.{stage}.'
        names[f'{theirs}reduction.weight'] = f'{ours}reduction.weight'
        optional |= leaves({'norm': 'norm'}, theirs, ours)
    learned = {name: tensor for name, tensor in state_dict.items() if not name.endswith(_COMPUTED)}
    converted = reshape_mixing(rename(learned, names | optional, source, optional))
    for name, tensor in converted.items():
        if layout.unfolded and name.startswith('downsamples.'):
            # nn.Unfold orders channels, rows, columns; the original repository orders columns, rows, channels.
            converted[name] = tensor.unflatten(-1, (-1, 2, 2)).transpose(-1, -3).flatten(-3)
        elif name == 'absolute_pos_embed':
            converted[name] = tensor.mT[:, :, None]  # one row; the network restores the two axes
    return converted | extra_state
