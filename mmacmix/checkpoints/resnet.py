"""A warm start for ACmix-ResNet: its convolution path as the nearest it can be to a plain ResNet's 3x3 convolutions.

For one index d of ``head_dim`` the path's output channels ``d * heads + h`` read k^2 features, each a combination of
the input's channels. So the ``heads * k^2`` rows of their dense kernels, one a channel and a tap, are

    kernels (heads k^2, k^2) x mixing (k^2, 3 heads) x projections (3 heads, in_channels),

a matrix over the input's channels of rank at most min(k^2, 3 heads). All three factors are free but that ``mixing`` is
the same for all d; where it selects, the product can be any matrix of that rank, and the nearest one in the Frobenius
norm is the truncated singular value decomposition.
"""

import re

import torch
from torch import Tensor

from ..errors import UserError
from ..ops import feature_projection, merged_kernels
from .keys import rename, without_backbone_prefix

HEADS = 4
CLASSIFIER = ('fc.', 'head.fc.')


def convert_resnet(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain bottleneck ResNet, as torchvision and OpenMMLab name it -> ``mmacmix.backbones.ACmixResNet``.

    All but the 3x3 convolutions is copied. Attention starts at rate 0, the convolution path at rate 1. The stride must
    be in the 3x3 convolutions, as torchvision and OpenMMLab's ``style='pytorch'`` have it; the names do not tell.
    """
    state_dict = without_backbone_prefix(state_dict)
    names, optional = _names(state_dict)
    generator = torch.Generator().manual_seed(0)
    converted = {}
    for name, tensor in rename(state_dict, names, 'resnet', optional).items():
        if re.fullmatch(_REPLACED, name):
            if tensor.shape[0] != tensor.shape[1] or tensor.shape[2:] != (3, 3):
                raise UserError(
                    f"not a checkpoint of 'resnet': {name} is no plain 3x3 convolution but {tuple(tensor.shape)}"
                )
            layer = name.removesuffix('weight')
            converted.update({layer + ours: each for ours, each in approximate(tensor, HEADS, generator).items()})
        else:
            converted[name] = tensor
    return converted


def _names(state_dict: dict[str, Tensor]) -> tuple[dict[str, str], list[str]]:
    """Names of a bottleneck ResNet with the blocks that are there, and those of them that may be missing."""
    blocks = {found[0] for name in state_dict if (found := re.match(r'layer\d\.\d+\.', name))}
    if not blocks:
        raise UserError("not a checkpoint of 'resnet': no bottleneck inside")
    kinds = {found[1] for name in state_dict if (found := re.match(r'layer\d\.\d+\.(bn|in|gn)1\.', name))}
    norm = min(kinds, default='bn')  # OpenMMLab names a normalisation by its type
    convs = [f'{block}conv{index}' for block in blocks for index in (1, 2, 3)]
    norms = [f'{block}{norm}{index}' for block in blocks for index in (1, 2, 3)]
    convs += [f'{block}downsample.0' for block in blocks if block.endswith('.0.')]
    norms += [f'{block}downsample.1' for block in blocks if block.endswith('.0.')]
    deep = any(name.startswith('stem.') for name in state_dict)
    convs += ['stem.0', 'stem.3', 'stem.6'] if deep else ['conv1']
    norms += ['stem.1', 'stem.4', 'stem.7'] if deep else [f'{norm}1']
    needed = ('weight', 'bias', 'running_mean', 'running_var') if norm == 'bn' else ('weight', 'bias')
    optional = [f'{each}.num_batches_tracked' for each in norms]
    names = [f'{each}.weight' for each in convs] + [f'{each}.{leaf}' for each in norms for leaf in needed] + optional
    classifier = [f'{each}{leaf}' for each in CLASSIFIER for leaf in ('weight', 'bias')]
    return {name: name for name in names} | dict.fromkeys(classifier, ''), [*optional, *classifier]


_REPLACED = r'layer\d\.\d+\.conv2\.weight'


def approximate(weight: Tensor, heads: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """The state of an ``mmacmix.layers.ACmix`` whose convolution path is nearest to a dense convolution.

    Args:
        weight: ``(out_channels, in_channels, k, k)`` of the convolution.
        heads: Attention heads of the layer.
        generator: Source of the numbers that no part of the approximation decides. Default: None.
    """
    out_channels, in_channels, side, _ = weight.shape
    head_dim, taps = out_channels // heads, side**2
    rank = min(taps, 3 * heads)
    rows = weight.double().flatten(2).transpose(1, 2).reshape(head_dim, heads * taps, in_channels)
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    root = values[:, :rank].sqrt()
    kernels = torch.zeros(head_dim, heads, taps, taps, dtype=torch.float64)  # head, tap, feature
    kernels[..., : root.shape[1]] = (left[..., :rank] * root[:, None]).unflatten(1, (heads, taps))
    # What the convolution path does not select starts as in a new layer, for attention alone.
    bound = in_channels**-0.5
    projections = torch.rand(3 * heads, head_dim, in_channels, generator=generator).double() * 2 * bound - bound
    projections[: root.shape[1]] = (root[..., None] * right[:, :rank]).transpose(0, 1)
    query, key, value = projections.reshape(3, out_channels, in_channels, 1, 1)
    position = torch.rand(head_dim, 2, generator=generator) * 2**0.5 - 0.5**0.5
    state = {
        **{f'{name}.weight': each for name, each in zip(('query', 'key', 'value'), (query, key, value), strict=True)},
        **{f'{name}.bias': torch.zeros(out_channels) for name in ('query', 'key', 'value')},
        'position.weight': position[..., None, None],
        'position.bias': torch.zeros(head_dim),
        'shift_conv.mixing': torch.eye(taps, 3 * heads),
        'shift_conv.weight': kernels.transpose(2, 3).reshape(out_channels, taps, side, side),
        'attention_rate': torch.zeros(1),
        'conv_rate': torch.ones(1),
    }
    return {name: tensor.to(weight) for name, tensor in state.items()}


def kernel_errors(plain: dict[str, Tensor], converted: dict[str, Tensor]) -> dict[str, float]:
    """How far each layer's convolution path is from the dense convolution that it stands for.

    Args:
        plain: State dict of the plain ResNet.
        converted: What ``convert(plain, 'resnet')`` made of it.

    Returns:
        Layer to the Frobenius norm of the difference, relative to the dense kernel's.
    """
    plain = without_backbone_prefix(plain)
    errors = {}
    for name in plain:
        if re.fullmatch(_REPLACED, name):
            layer = name.removesuffix('weight')
            state = {key.removeprefix(layer): tensor for key, tensor in converted.items() if key.startswith(layer)}
            difference = dense_kernel(state, HEADS) - plain[name]
            errors[layer.removesuffix('.')] = (difference.norm() / plain[name].norm()).item()
    return errors


def dense_kernel(state: dict[str, Tensor], heads: int) -> Tensor:
    """The dense convolution that an ACmix layer's convolution path is, its rate included: ``(out, in, k, k)``.

    Args:
        state: State dict of an ``mmacmix.layers.ACmix``, whose projections have no bias.
        heads: Its attention heads.
    """
    projections = torch.cat([state[f'{name}.weight'].flatten(1) for name in ('query', 'key', 'value')])
    features, _ = feature_projection(projections, None, state['shift_conv.mixing'])
    return state['conv_rate'] * merged_kernels(state['shift_conv.weight'], features)
