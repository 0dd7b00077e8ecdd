"""Normalisation layers from OpenMMLab's ``norm_cfg``."""

from collections.abc import Callable

from torch import nn

_TYPES: dict[str, Callable[..., nn.Module]] = {
    'BN': nn.BatchNorm2d,
    'BN2d': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
    'IN': nn.InstanceNorm2d,
    'IN2d': nn.InstanceNorm2d,
    'LN': nn.LayerNorm,
    'GN': lambda channels, num_groups, **arguments: nn.GroupNorm(num_groups, channels, **arguments),
}


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build a normalisation layer, as ``mmcv.cnn.build_norm_layer`` does, with torch alone.

    Args:
        norm_cfg: ``type``, one of ``'BN'``, ``'SyncBN'``, ``'IN'``, ``'LN'`` and ``'GN'`` or a class that takes the
            number of channels, and further arguments; ``requires_grad=False`` freezes the parameters.
        channels: Channels of the input; ``'LN'`` expects them last, ``'BN'``, ``'IN'`` and ``'GN'`` after the batch.

    Raises:
        ValueError: The type is missing or unknown.
    """
    arguments = dict(norm_cfg)
    kind, requires_grad = arguments.pop('type', None), arguments.pop('requires_grad', True)
    if kind not in _TYPES and not isinstance(kind, type):
        raise ValueError(f'the type of norm_cfg must be one of {tuple(_TYPES)} or a class, got {norm_cfg!r}')
    return _TYPES.get(kind, kind)(channels, **dict(eps=1e-5) | arguments).requires_grad_(requires_grad)
