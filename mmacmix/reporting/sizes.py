"""Sizes of all backbones, and the sizes published for ACmix (arXiv 2111.14556, tables 2 and 3)."""

from typing import NamedTuple

import torch
from mmengine.registry import MODELS

from .complexity import Part, model_complexity


class Published(NamedTuple):
    """Published size of an ImageNet classifier for images of 224 x 224 pixels."""

    parameters: float  # millions
    macs: float  # multiply-adds, billions


# Config and published size of each backbone; for X-volution and LESA no sizes of this setting were published.
BACKBONES = {
    'ACmix-ResNet-26': (dict(type='ACmixResNet', depth=26), Published(10.6, 2.3)),
    'ACmix-ResNet-38': (dict(type='ACmixResNet', depth=38), Published(14.6, 2.9)),
    'ACmix-ResNet-50': (dict(type='ACmixResNet', depth=50), Published(18.6, 3.6)),
    'ACmix-SAN-10': (dict(type='ACmixSAN', depth=10), Published(12.1, 1.9)),
    'ACmix-SAN-15': (dict(type='ACmixSAN', depth=15), Published(16.6, 2.7)),
    'ACmix-SAN-19': (dict(type='ACmixSAN', depth=19), Published(21.2, 3.4)),
    'ACmix-PVT-T': (dict(type='ACmixPyramidVisionTransformer', arch='tiny'), Published(13, 2.0)),
    'ACmix-PVT-S': (dict(type='ACmixPyramidVisionTransformer', arch='small'), Published(25, 3.9)),
    'ACmix-Swin-T': (dict(type='ACmixSwinTransformer', arch='tiny', out_indices=(3,)), Published(30, 4.6)),
    'ACmix-Swin-S': (dict(type='ACmixSwinTransformer', arch='small', out_indices=(3,)), Published(51, 9.0)),
    'X-volution-ResNet-34': (dict(type='XVolutionResNet', depth=34), None),
    'X-volution-ResNet-50': (dict(type='XVolutionResNet', depth=50), None),
    'LESA-ResNet-50': (dict(type='LESAResNet'), None),
}


def classifier_size(name: str) -> Part:
    """Size of an ImageNet classifier for images of 224 x 224 pixels with one of ``BACKBONES``."""
    backbone = MODELS.build(BACKBONES[name][0]).eval()
    maps: list[torch.Tensor] = []
    parts = model_complexity(backbone, lambda: maps.extend(backbone(torch.zeros(1, 3, 224, 224))))
    channels, classes = maps[-1].shape[1], 1000
    return sum(parts.values(), start=Part(channels * classes + classes, channels * classes))
