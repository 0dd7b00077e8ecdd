"""Plain Pyramid Vision Transformers, in the layouts that people have."""

import math
import re

from torch import Tensor

from ..errors import UserError
from .keys import leaves, rename, without_backbone_prefix
from .second_path import add_second_path

_NORMS = [('norm1', 'norm1'), ('norm2', 'norm2')]
_REDUCTION = [('attn.sr', 'attn.reduce'), ('attn.norm', 'attn.norm')]


def convert_pvt(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain PVT of the original repository or of MMDetection -> a network equal to it.

    Attention has rate 1, the convolution path rate 0: it does nothing until training raises its rate.
    """
    state_dict = without_backbone_prefix(state_dict)
    layout = _openmmlab if any(name.startswith('layers.') for name in state_dict) else _original
    names, optional = layout(state_dict)
    converted = {}
    for name, tensor in rename(state_dict, names, 'pvt', optional).items():
        if name.endswith('.position'):
            side = math.isqrt(tensor.shape[1])
            if tensor.shape[1] - side**2 not in (0, 1):
                raise UserError(f"not a checkpoint of 'pvt': {name} is of {tensor.shape[1]} places, which is no square")
            # The original's last stage has the classifier's token in front.
            converted[name] = tensor[:, -(side**2) :].mT.unflatten(2, (side, side))
        elif '.in_projection.' in name:
            channels = tensor.shape[0] // 3
            converted[name.replace('in_projection', 'query')] = tensor[:channels]
            converted[name.replace('in_projection', 'key_value')] = tensor[channels:]
        elif '.ffn.' in name:
            converted[name] = tensor.flatten(1) if name.endswith('weight') else tensor  # 1x1 convolutions or linear
        else:
            converted[name] = tensor
    if 'patch_embeds.0.projection.weight' not in converted:
        raise UserError("not a checkpoint of 'pvt': no stage inside")
    # All heads are as wide as the first stage, which has one.
    head_dim = len(converted['patch_embeds.0.projection.weight'])
    biases = {name: len(tensor) for name, tensor in converted.items() if name.endswith('.attn.proj.bias')}
    return add_second_path(
        converted, {name.removesuffix('.proj.bias'): width // head_dim for name, width in biases.items()}
    )


def _original(state_dict: dict[str, Tensor]) -> tuple[dict[str, str], list[str]]:
    """Names of the original repository's classifier, and those of them that may be missing. Stages count from 1."""
    names = leaves([('norm', 'norm'), ('head', '')]) | {'cls_token': ''}
    optional = [*names]
    for stage, block in _numbers(state_dict, r'block(\d+)\.(\d+)\.'):
        theirs, ours = f'block{stage}.{block}.', f'stages.{stage - 1}.{block}.'
        linear = [('attn.proj', 'attn.proj'), ('mlp.fc1', 'ffn.0'), ('mlp.fc2', 'ffn.3')]
        projections = [('attn.q', 'attn.query'), ('attn.kv', 'attn.key_value')]
        names |= leaves([*_NORMS, *_REDUCTION, *linear, *projections], theirs, ours)
        optional += [*leaves(_REDUCTION, theirs), f'{theirs}attn.q.bias', f'{theirs}attn.kv.bias']
        embed = [('proj', 'projection'), ('norm', 'norm')]
        names |= leaves(embed, f'patch_embed{stage}.', f'patch_embeds.{stage - 1}.')
        names[f'pos_embed{stage}'] = f'patch_embeds.{stage - 1}.position'
    return names, optional


def _openmmlab(state_dict: dict[str, Tensor]) -> tuple[dict[str, str], list[str]]:
    """Names of MMDetection's backbone, and those of them that may be missing. Block 0 is the position embedding."""
    names, optional = {}, []
    for stage, block in _numbers(state_dict, r'layers\.(\d+)\.1\.(\d+)\.norm1'):
        theirs, ours = f'layers.{stage}.1.{block}.', f'stages.{stage}.{block - 1}.'
        linear = [('attn.attn.out_proj', 'attn.proj'), ('ffn.layers.0', 'ffn.0'), ('ffn.layers.3', 'ffn.3')]
        names |= leaves([*_NORMS, *_REDUCTION, *linear], theirs, ours)
        for leaf in ('weight', 'bias'):
            names[f'{theirs}attn.attn.in_proj_{leaf}'] = f'{ours}attn.in_projection.{leaf}'
        optional += [*leaves(_REDUCTION, theirs), f'{theirs}attn.attn.in_proj_bias']
        embed = [('projection', 'projection'), ('norm', 'norm')]
        names |= leaves(embed, f'layers.{stage}.0.', f'patch_embeds.{stage}.')
        names[f'layers.{stage}.1.0.pos_embed'] = f'patch_embeds.{stage}.position'
    return names, optional


def _numbers(state_dict: dict[str, Tensor], pattern: str) -> list[tuple[int, int]]:
    """Stage and block of all names that match."""
    return sorted({(int(found[1]), int(found[2])) for name in state_dict if (found := re.match(pattern, name))})
