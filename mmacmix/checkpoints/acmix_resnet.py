"""The published ACmix-ResNet classifier (LeapLabTHU/ACmix)."""

import re

from torch import Tensor

from .acmix import OPERATOR, reshape_mixing
from .keys import rename

_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


def convert_acmix_resnet(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published classifier of any depth -> ``mmacmix.backbones.ACmixResNet``, without its classifier ``fc``.

    The names are those of a ResNet, but for the operators inside.
    """
    blocks = [1, 1, 1, 1]
    for name in state_dict:
        found = re.match(r'layer([1-4])\.(\d+)\.', name)
        if found:
            stage, block = int(found[1]) - 1, int(found[2])
            blocks[stage] = max(blocks[stage], block + 1)
    same = ['conv1.weight', *_norm('bn1')]
    names = {'fc.weight': '', 'fc.bias': ''}
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            prefix = f'layer{stage}.{block}.'
            same += [
                prefix + name for name in ('conv1.weight', 'conv3.weight', *_norm('bn1'), *_norm('bn2'), *_norm('bn3'))
            ]
            if block == 0:
                same += [prefix + name for name in ('downsample.0.weight', *_norm('downsample.1'))]
            names.update({f'{prefix}conv2.{theirs}': f'{prefix}conv2.{ours}' for theirs, ours in OPERATOR.items()})
    names.update(zip(same, same, strict=False))
    counters = [name for name in names if name.endswith('num_batches_tracked')]
    return reshape_mixing(rename(state_dict, names, 'acmix-resnet', optional=['fc.weight', 'fc.bias', *counters]))


def _norm(name: str):
    return [f'{name}.{leaf}' for leaf in _NORM]
