"""Other people's checkpoints in, ours out."""

from collections.abc import Callable, Mapping

from torch import Tensor

from ..errors import UserError
from .acmix import convert_acmix
from .acmix_resnet import convert_acmix_resnet
from .pvt import convert_pvt
from .resnet import convert_resnet
from .swin import convert_acmix_swin, convert_swin

StateDict = dict[str, Tensor]

SOURCES: dict[str, Callable[[StateDict], StateDict]] = {
    'acmix': convert_acmix,
    'acmix-resnet': convert_acmix_resnet,
    'acmix-swin': convert_acmix_swin,
    'pvt': convert_pvt,
    'resnet': convert_resnet,
    'swin': convert_swin,
}


def convert(state_dict: Mapping[str, Tensor], source: str) -> StateDict:
    """Translate a state dict to the names and shapes of this package.

    Args:
        state_dict: Names to tensors, as the source's own code saves them. A leading ``module.`` on all names, as
            ``DistributedDataParallel`` leaves it, is taken off.
        source: ``'acmix'``, one published ACmix operator, for ``mmacmix.layers.ACmix``; ``'acmix-resnet'``, a
            published ACmix-ResNet classifier, for ``mmacmix.backbones.ACmixResNet``; ``'acmix-swin'``, a
            published ACmix-Swin classifier, or ``'swin'``, a plain Swin Transformer in any of the layouts that people
            have, for ``mmacmix.backbones.ACmixSwinTransformer``; ``'pvt'``, a plain Pyramid Vision Transformer of
            the original repository or of MMDetection, for
            ``mmacmix.backbones.ACmixPyramidVisionTransformer``; ``'resnet'``, a plain bottleneck ResNet, for
            ``mmacmix.backbones.ACmixResNet`` with 4 heads, an approximation. Classifiers' heads are left out.

    Returns:
        A new state dict, ready for a strict ``load_state_dict``.

    Raises:
        UserError: There is no such source, or keys are unknown or missing; the message names them.
    """
    if source not in SOURCES:
        raise UserError(f'source must be one of {tuple(SOURCES)}, got {source!r}')
    prefix = 'module.'
    if state_dict and all(name.startswith(prefix) for name in state_dict):
        state_dict = {name[len(prefix) :]: tensor for name, tensor in state_dict.items()}
    return SOURCES[source](dict(state_dict))
