"""Registers the layers, and this package as a source of configs, with MMEngine."""

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS

from .layers import CONV_LAYERS

for layer in CONV_LAYERS:
    MODELS.register_module(module=layer)

# Lets configs inherit from `mmacmix::...` and the hosts' inferencers find its models.
MODULE2PACKAGE['mmacmix'] = 'mmacmix'
