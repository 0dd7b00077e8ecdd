"""A warm start for ACmix-ResNet: its convolution path approximates the 3x3 convolutions of a plain ResNet.

For each index d of ``head_dim``, the output channels ``d * heads + h`` read k^2 features, which are linear in the
input's channels. The dense kernels of these channels, as a matrix with one row per channel and tap, are the product

    kernels (heads k^2, k^2) x mixing (k^2, 3 heads) x projections (3 heads, in_channels)

of rank at most min(k^2, 3 heads). All d share ``mixing``. If it selects features, the product can be any matrix of
that rank; the nearest one in the Frobenius norm is the truncated singular value decomposition.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import UserError
from ..ops import dense_kernels
from .keys import blocks_of, rename, without_backbone_prefix

HEADS = 4
CLASSIFIER = ('fc.', 'head.fc.')
_REPLACED = r'layer\d\.\d+\.conv2\.weight'


def convert_resnet(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain bottleneck ResNet with the keys of torchvision or OpenMMLab -> ``mmacmix.backbones.ACmixResNet``.

    Copies everything except the 3x3 convolutions. Attention has rate 0, the convolution path rate 1. The stride must
    be in the 3x3 convolutions (``style='pytorch'`` in OpenMMLab), which the keys do not show.
    """
    state_dict = without_backbone_prefix(state_dict)
    blocks = blocks_of(state_dict, r'layer(\d)\.(\d+)\.')
    if not blocks:
        raise UserError("not a checkpoint of 'resnet': it has no bottlenecks")
    names, optional = resnet_keys(state_dict, blocks)
    generator = torch.Generator().manual_seed(0)
    converted = {}
    for name, tensor in rename(state_dict, names, 'resnet', optional).items():
        if not re.fullmatch(_REPLACED, name):
            converted[name] = tensor
            continue
        if tensor.shape[0] != tensor.shape[1] or tensor.shape[2:] != (3, 3):
            raise UserError(
                f"not a checkpoint of 'resnet': {name} must be a dense 3x3 convolution, got {tuple(tensor.shape)}"
            )
        layer = name.removesuffix('weight')
        converted |= {layer + key: value for key, value in approximate(tensor, HEADS, generator).items()}
    return converted


def resnet_keys(state_dict: dict[str, Tensor], blocks: Iterable[tuple[int, int]]) -> tuple[dict[str, str], list[str]]:
    """Old to new keys of a bottleneck ResNet with these stages and blocks, and the optional keys."""
    kinds = {found[1] for name in state_dict if (found := re.match(r'layer\d\.\d+\.(bn|in|gn)1\.', name))}
    norm = min(kinds, default='bn')  # OpenMMLab names normalisation layers by type
    convs, norms = ['conv1'], [f'{norm}1']
    if any(name.startswith('stem.') for name in state_dict):
        convs, norms = ['stem.0', 'stem.3', 'stem.6'], ['stem.1', 'stem.4', 'stem.7']
    for stage, block in blocks:
        prefix = f'layer{stage}.{block}.'
        convs += [f'{prefix}conv{index}' for index in (1, 2, 3)]
        norms += [f'{prefix}{norm}{index}' for index in (1, 2, 3)]
        if block == 0:
            convs.append(f'{prefix}downsample.0')
            norms.append(f'{prefix}downsample.1')
    required = ('weight', 'bias', 'running_mean', 'running_var') if norm == 'bn' else ('weight', 'bias')
    counters = [f'{each}.num_batches_tracked' for each in norms]
    same = [f'{each}.weight' for each in convs] + [f'{each}.{leaf}' for each in norms for leaf in required] + counters
    classifier = [f'{each}{leaf}' for each in CLASSIFIER for leaf in ('weight', 'bias')]
    return {name: name for name in same} | dict.fromkeys(classifier, ''), counters + classifier


def approximate(weight: Tensor, heads: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """State dict of the ``mmacmix.layers.ACmix`` that is nearest to a dense kernel ``(out, in, k, k)``.

    Parameters that only attention uses are initialised from ``generator``.
    """
    out_channels, in_channels, side, _ = weight.shape
    head_dim, taps = out_channels // heads, side**2
    rank = min(taps, 3 * heads)
    rows = weight.double().flatten(2).transpose(1, 2).reshape(head_dim, heads * taps, in_channels)
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    root = values[:, :rank].sqrt()
    kernels = torch.zeros(head_dim, heads, taps, taps, dtype=torch.float64)  # head, tap, feature
    kernels[..., : root.shape[1]] = (left[..., :rank] * root[:, None]).unflatten(1, (heads, taps))
    # Projections that the convolution path does not select are initialised as in a new layer.
    bound = in_channels**-0.5
    projections = torch.rand(3 * heads, head_dim, in_channels, generator=generator).double() * 2 * bound - bound
    projections[: root.shape[1]] = (root[..., None] * right[:, :rank]).transpose(0, 1)
    query, key, value = projections.reshape(3, out_channels, in_channels, 1, 1)
    position = torch.rand(head_dim, 2, generator=generator) * 2**0.5 - 0.5**0.5
    state = {
        **{'query.weight': query, 'key.weight': key, 'value.weight': value},
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
    """Relative errors, in the Frobenius norm, of the kernels in ``convert(plain, 'resnet')``."""
    errors = {}
    for name, kernel in without_backbone_prefix(plain).items():
        if re.fullmatch(_REPLACED, name):
            layer = name.removesuffix('weight')
            state = {key.removeprefix(layer): tensor for key, tensor in converted.items() if key.startswith(layer)}
            difference = dense_kernel(state) - kernel
            errors[layer.removesuffix('.')] = (difference.norm() / kernel.norm()).item()
    return errors


def dense_kernel(state: dict[str, Tensor]) -> Tensor:
    """Dense kernel ``(out, in, k, k)`` of the convolution path in the state dict of an ACmix layer, rate included.

    The biases of the projections must be zero.
    """
    projections = torch.cat([state[f'{name}.weight'].flatten(1) for name in ('query', 'key', 'value')])
    mixing = state['shift_conv.mixing']
    projections = projections.unflatten(0, (mixing.shape[1], -1))
    return state['conv_rate'] * dense_kernels(state['shift_conv.weight'], mixing, projections)[0]
