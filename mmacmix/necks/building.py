"""Builds a layer from the config that a user has written."""

from typing import Any

from mmengine.registry import MODELS
from torch import nn


def build_layer(layer: dict, **arguments: Any) -> nn.Module:
    """Build a layer from its config and further arguments.

    Raises:
        ValueError: The config has no registered type, the layer has no such argument, or one is out of range.
    """
    kind = layer.get('type')
    if not isinstance(kind, type) and (not isinstance(kind, str) or MODELS.get(kind) is None):
        raise ValueError(f"layer must have a registered type, such as dict(type='ACmix'), got {layer!r}")
    try:
        return MODELS.build(dict(**layer, **arguments))
    except TypeError as error:
        raise ValueError(f'layer={layer!r} cannot be built: {error}') from error
