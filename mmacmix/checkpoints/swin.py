"""Swin Transformers: the published ACmix-Swin (LeapLabTHU/ACmix), and plain ones in the layouts that people have."""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from .keys import leaves, rename, without_backbone_prefix
from .second_path import add_second_path

_ACMIX = {
    'rate1': 'attention_rate',
    'rate2': 'conv_rate',
    'fc.weight': 'shift_conv.mixing',
    'fc.bias': 'shift_conv.mixing_bias',
    'dep_conv.weight': 'shift_conv.weight',
}
_BUFFERS = ('attn_mask', 'relative_position_index')  # computed, not learned


class _Layout(NamedTuple):
    """What a code base calls things; ``{}`` stands for the number of a stage."""

    stage: str
    embedding: str
    attention: str  # of a block
    linear: tuple[str, str]  # of a block's two-layer network
    merging: str  # behind the stage
    merging_stage: int  # by how much its number is higher
    unfolded: bool  # merged pixels are ordered as nn.Unfold does
    shift_single_window: bool  # see WindowACmix


_ORIGINAL = _Layout(
    'layers.{}.', 'patch_embed.proj', 'attn', ('mlp.fc1', 'mlp.fc2'), 'layers.{}.downsample', 0, False, False
)
_TIMM = _ORIGINAL._replace(merging_stage=1)
_OPENMMLAB = _Layout(
    'stages.{}.',
    'patch_embed.projection',
    'attn.w_msa',
    ('ffn.layers.0.0', 'ffn.layers.1'),
    'stages.{}.downsample',
    0,
    True,
    True,
)
_MMPRETRAIN = _OPENMMLAB._replace(shift_single_window=False)


def convert_acmix_swin(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published classifier of any size -> ``mmacmix.backbones.ACmixSwinTransformer``, without its ``head``."""
    return _convert(state_dict, _ORIGINAL, 'acmix-swin', acmix=True)


def convert_swin(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain Swin of the original repository, MMDetection, MMSegmentation, MMPretrain or timm -> a network equal to it.

    Attention has rate 1, the convolution path rate 0: it does nothing until training raises its rate.
    """
    state_dict = without_backbone_prefix(state_dict)
    if any(name.startswith('stages.') for name in state_dict):
        layout = _MMPRETRAIN if 'head.fc.weight' in state_dict else _OPENMMLAB
    elif any(name.startswith('layers.0.downsample') for name in state_dict):
        # The original repository's detectors and segmentors, with a normalisation a stage, always shift.
        layout = _ORIGINAL._replace(shift_single_window='norm0.weight' in state_dict)
    else:
        layout = _TIMM
    converted = _convert(state_dict, layout, 'swin', acmix=False)
    table = '.relative_position_bias_table'
    heads = {name.removesuffix(table): tensor.shape[1] for name, tensor in converted.items() if name.endswith(table)}
    return add_second_path(converted, heads)


def _convert(state_dict: dict[str, Tensor], layout: _Layout, source: str, acmix: bool) -> dict[str, Tensor]:
    pattern = re.escape(layout.stage).replace(r'\{\}', r'(\d+)') + r'blocks\.(\d+)\.'
    depths: dict[int, int] = {}
    for name in state_dict:
        found = re.match(pattern, name)
        if found:
            stage, block = int(found[1]), int(found[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
    last = max(depths, default=0)
    names, optional = _outside(layout, last)
    single = {}
    for stage, depth in depths.items():
        for block in range(depth):
            theirs, ours = f'{layout.stage.format(stage)}blocks.{block}.', f'stages.{stage}.{block}.'
            pairs = [('norm1', 'norm1'), ('norm2', 'norm2'), *zip(layout.linear, ('ffn.0', 'ffn.3'), strict=True)]
            pairs += [(f'{layout.attention}.{name}', f'attn.{name}') for name in ('qkv', 'proj')]
            names.update(leaves(pairs, theirs, ours))
            optional.append(f'{theirs}{layout.attention}.qkv.bias')
            table = 'relative_position_bias_table'
            names[f'{theirs}{layout.attention}.{table}'] = f'{ours}attn.{table}'
            if acmix:
                names.update({f'{theirs}attn.{name}': f'{ours}attn.{new}' for name, new in _ACMIX.items()})
            single[f'{ours}attn._extra_state'] = torch.tensor(layout.shift_single_window)
        if stage < last:
            theirs, ours = layout.merging.format(stage + layout.merging_stage), f'downsamples.{stage}'
            names[f'{theirs}.reduction.weight'] = f'{ours}.reduction.weight'
            names.update(leaves([('.norm', '.norm')], theirs, ours))
            optional += [f'{theirs}.norm.{leaf}' for leaf in ('weight', 'bias')]
    learned = {name: tensor for name, tensor in state_dict.items() if not name.endswith(_BUFFERS)}
    converted = rename(learned, names, source, optional)
    for name, tensor in converted.items():
        if name.endswith('shift_conv.mixing'):
            converted[name] = tensor.flatten(1)  # it was a 1x1 convolution
        elif layout.unfolded and name.startswith('downsamples.'):
            converted[name] = _unfolded_to_concatenated(tensor)
        elif name == 'absolute_pos_embed':
            converted[name] = tensor.mT[:, :, None]  # one row of places: the network knows their rows and columns
    return converted | single


def _outside(layout: _Layout, last: int) -> tuple[dict[str, str], list[str]]:
    """Names outside the stages, and those of them that may be missing."""
    pairs = [(layout.embedding, 'patch_embed.projection'), ('patch_embed.norm', 'patch_embed.norm')]
    norms = [('norm', f'norm{last}'), *((f'norm{stage}', f'norm{stage}') for stage in range(last + 1))]
    names = leaves([*pairs, *norms, ('head', ''), ('head.fc', '')])
    names['absolute_pos_embed'] = 'absolute_pos_embed'
    needed = [f'{layout.embedding}.{leaf}' for leaf in ('weight', 'bias')]
    return names, [name for name in names if name not in needed]


def _unfolded_to_concatenated(tensor: Tensor) -> Tensor:
    """Reorder the last axis, the joined pixels of 2 x 2.

    nn.Unfold goes over channels, then rows, then columns of the 2 x 2; the original repository joins whole pixels,
    columns first.
    """
    return tensor.unflatten(-1, (-1, 2, 2)).movedim((-1, -2, -3), (-3, -2, -1)).flatten(-3)
