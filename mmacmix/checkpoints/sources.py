"""Conversion of published checkpoints to the keys and shapes of this package."""

from collections.abc import Callable, Mapping

from torch import Tensor

from ..errors import UserError
from .acmix import convert_acmix
from .acmix_resnet import convert_acmix_resnet
from .open_nsfw import convert_open_nsfw
from .pvt import convert_pvt
from .resnet import convert_resnet
from .swin import convert_acmix_swin, convert_swin

StateDict = dict[str, Tensor]

SOURCES: dict[str, Callable[[StateDict], StateDict]] = {
    'acmix': convert_acmix,
    'acmix-resnet': convert_acmix_resnet,
    'acmix-swin': convert_acmix_swin,
    'open-nsfw': convert_open_nsfw,
    'pvt': convert_pvt,
    'resnet': convert_resnet,
    'swin': convert_swin,
}


def convert(state_dict: Mapping[str, Tensor], source: str) -> StateDict:
    """Convert a state dict to the keys and shapes of this package; a classifier's head is dropped.

    Args:
        state_dict: Keys to tensors, as the source's own code saves them, with or without the prefix ``module.`` of
            ``DistributedDataParallel``.
        source: ``'acmix'``, one published ACmix operator, for ``mmacmix.layers.ACmix``; ``'acmix-resnet'``, a
            published ACmix-ResNet classifier, for ``mmacmix.backbones.ACmixResNet``; ``'acmix-swin'``, a published
            ACmix-Swin classifier, or ``'swin'``, a plain Swin Transformer of the original repository, MMDetection,
            MMSegmentation, MMPretrain or timm, for ``mmacmix.backbones.ACmixSwinTransformer``; ``'open-nsfw'``, the
            convolutions of Yahoo's open_nsfw in ONNX, for a plain ResNet of half the width; ``'pvt'``, a plain
            Pyramid Vision Transformer of the original repository or of MMDetection, for
            ``mmacmix.backbones.ACmixPyramidVisionTransformer``; ``'resnet'``, a plain bottleneck ResNet, for
            ``mmacmix.backbones.ACmixResNet`` with 4 heads, an approximation.

    Returns:
        A new state dict for a strict ``load_state_dict``.

    Raises:
        UserError: The source is unknown, or keys are unknown or missing; the message names them.
    """
    if source not in SOURCES:
        raise UserError(f'source must be one of {tuple(SOURCES)}, got {source!r}')
    prefix = 'module.'
    if state_dict and all(name.startswith(prefix) for name in state_dict):
        state_dict = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}
    return SOURCES[source](dict(state_dict))
