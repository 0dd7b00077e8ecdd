"""Registers with MMEngine what itself knows nothing of MMEngine: the layers, and the configs as a package."""

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS

from .layers import CONV_LAYERS

for layer in CONV_LAYERS:
    MODELS.register_module(module=layer)

# Configs can inherit from `mmacmix::...`, and the hosts' inferencers list its models.
MODULE2PACKAGE['mmacmix'] = 'mmacmix'
