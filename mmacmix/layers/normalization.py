"""Normalisation layers: built from OpenMMLab's ``norm_cfg``, and merged into the layer before them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_TYPES: dict[str, Callable[..., nn.Module]] = {
    'BN': nn.BatchNorm2d,
    'BN2d': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
    'IN': nn.InstanceNorm2d,
    'LN': nn.LayerNorm,
    'GN': lambda channels, num_groups, **arguments: nn.GroupNorm(num_groups, channels, **arguments),
}


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build a normalisation layer, as ``mmcv.cnn.build_norm_layer`` does, with torch alone.

    Args:
        norm_cfg: ``type``, one of ``'BN'``, ``'SyncBN'``, ``'IN'``, ``'LN'`` and ``'GN'`` or a class that takes the
            number of channels, and its arguments; ``requires_grad=False`` freezes the parameters.
        channels: Channels of the input.

    Raises:
        ValueError: There is no such type.
    """
    arguments = dict(norm_cfg)
    kind, requires_grad = arguments.pop('type', None), arguments.pop('requires_grad', True)
    if kind not in _TYPES and not isinstance(kind, type):
        raise ValueError(f'the type of norm_cfg must be one of {tuple(_TYPES)} or a class, got {norm_cfg!r}')
    norm = _TYPES.get(kind, kind)(channels, **dict(eps=1e-5) | arguments)
    return norm if requires_grad else norm.requires_grad_(False)


def is_mergeable(norm: nn.Module | None) -> bool:
    """Whether it is a batch normalisation with running statistics and without hooks on it."""
    return (
        isinstance(norm, _BatchNorm)
        and norm.running_var is not None
        and not (norm._forward_hooks or norm._forward_pre_hooks)
    )


def scale_and_shift(norm: _BatchNorm | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """The factor and the summand per channel, ``(C,)``, that a batch normalisation is in evaluation.

    Args:
        norm: The normalisation; None stands for factor 1 and summand 0.
        like: Weights ``(C, ...)`` of the layer before it, whose dtype and device the results get.
    """
    if norm is None:
        return torch.ones_like(like[:, 0, 0, 0]), torch.zeros_like(like[:, 0, 0, 0])
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    return scale.detach().to(like), shift.detach().to(like)
