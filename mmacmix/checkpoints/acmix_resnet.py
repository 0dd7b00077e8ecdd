"""The published ACmix-ResNet classifier (LeapLabTHU/ACmix)."""

from torch import Tensor

from .acmix import OPERATOR, reshape_mixing
from .keys import blocks_of, rename
from .resnet import resnet_keys


def convert_acmix_resnet(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published classifier of any depth -> ``mmacmix.backbones.ACmixResNet``, without the head ``fc``."""
    blocks = sorted({(stage, 0) for stage in (1, 2, 3, 4)} | set(blocks_of(state_dict, r'layer([1-4])\.(\d+)\.')))
    names, optional = resnet_keys(state_dict, blocks)
    for stage, block in blocks:
        conv2 = f'layer{stage}.{block}.conv2.'
        del names[f'{conv2}weight']
        names |= {conv2 + theirs: conv2 + ours for theirs, ours in OPERATOR.items()}
    return reshape_mixing(rename(state_dict, names, 'acmix-resnet', optional))
