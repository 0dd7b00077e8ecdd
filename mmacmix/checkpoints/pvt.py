"""Plain Pyramid Vision Transformers of the original repository and of MMDetection."""

import math

from torch import Tensor

from ..errors import UserError
from .keys import blocks_of, dropped, leaves, rename, without_backbone_prefix
from .second_path import add_second_path

_NORMS = {'norm1': 'norm1', 'norm2': 'norm2'}
_REDUCTION = {'attn.sr': 'attn.reduce', 'attn.norm': 'attn.norm'}


def convert_pvt(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain PVT -> a network with equal output: attention has rate 1, the convolution path rate 0 until it trains."""
    state_dict = without_backbone_prefix(state_dict)
    layout = _openmmlab if any(name.startswith('layers.') for name in state_dict) else _original
    names, optional = layout(state_dict)
    converted = {}
    for name, tensor in rename(state_dict, names, 'pvt', optional).items():
        if name.endswith('.position'):
            positions = tensor.shape[1]
            side = math.isqrt(positions)
            if positions - side**2 not in (0, 1):
                raise UserError(f"not a checkpoint of 'pvt': {name} has {positions} positions, which is not a square")
            # In the original, the position of the class token comes first.
            converted[name] = tensor[:, -(side**2) :].mT.unflatten(2, (side, side))
        elif '.in_projection.' in name:
            channels = len(tensor) // 3
            converted[name.replace('in_projection', 'query')] = tensor[:channels]
            converted[name.replace('in_projection', 'key_value')] = tensor[channels:]
        elif '.ffn.' in name and name.endswith('weight'):
            converted[name] = tensor.flatten(1)  # in MMDetection these are 1x1 convolutions
        else:
            converted[name] = tensor
    if 'patch_embeds.0.projection.weight' not in converted:
        raise UserError("not a checkpoint of 'pvt': it has no stages")
    # The first stage has one head, and all heads are as wide.
    head_dim = len(converted['patch_embeds.0.projection.weight'])
    projection = '.attn.proj.weight'
    widths = {name: len(tensor) for name, tensor in converted.items() if name.endswith(projection)}
    return add_second_path(
        converted, {name.removesuffix('.proj.weight'): width // head_dim for name, width in widths.items()}
    )


def _original(state_dict: dict[str, Tensor]) -> tuple[dict[str, str], list[str]]:
    """Keys of the original repository's classifier, which counts stages from 1, and the optional keys."""
    names = leaves({'norm': 'norm'}) | dropped('head') | {'cls_token': ''}
    optional = [*names]
    modules = {
        **_NORMS,
        **_REDUCTION,
        **{'attn.q': 'attn.query', 'attn.kv': 'attn.key_value', 'attn.proj': 'attn.proj'},
        **{'mlp.fc1': 'ffn.0', 'mlp.fc2': 'ffn.3'},
    }
    for stage, block in blocks_of(state_dict, r'block(\d+)\.(\d+)\.'):
        theirs, embed = f'block{stage}.{block}.', f'patch_embeds.{stage - 1}.'
        names |= leaves(modules, theirs, f'stages.{stage - 1}.{block}.')
        names |= leaves({'proj': 'projection', 'norm': 'norm'}, f'patch_embed{stage}.', embed)
        names[f'pos_embed{stage}'] = f'{embed}position'
        optional += [*leaves(_REDUCTION, theirs), f'{theirs}attn.q.bias', f'{theirs}attn.kv.bias']
    return names, optional


def _openmmlab(state_dict: dict[str, Tensor]) -> tuple[dict[str, str], list[str]]:
    """Keys of MMDetection's backbone, whose block 0 is the position embedding, and the optional keys."""
    names, optional = {}, []
    modules = {
        **_NORMS,
        **_REDUCTION,
        **{'attn.attn.out_proj': 'attn.proj', 'ffn.layers.0': 'ffn.0', 'ffn.layers.3': 'ffn.3'},
    }
    for stage, block in blocks_of(state_dict, r'layers\.(\d+)\.1\.(\d+)\.'):
        theirs, ours, embed = f'layers.{stage}.1.{block}.', f'stages.{stage}.{block - 1}.', f'patch_embeds.{stage}.'
        if block == 0:
            names |= leaves({'projection': 'projection', 'norm': 'norm'}, f'layers.{stage}.0.', embed)
            names[f'{theirs}pos_embed'] = f'{embed}position'
            continue
        names |= leaves(modules, theirs, ours)
        for leaf in ('weight', 'bias'):
            names[f'{theirs}attn.attn.in_proj_{leaf}'] = f'{ours}attn.in_projection.{leaf}'
        optional += [*leaves(_REDUCTION, theirs), f'{theirs}attn.attn.in_proj_bias']
    return names, optional
