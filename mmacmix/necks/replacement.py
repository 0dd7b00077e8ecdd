"""Layers in place of chosen convolutions of any network."""

import re
from typing import Any

from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..errors import UserError
from ..layers import MixingLayer
from ..layers.arguments import check_without
from ..layers.conv_signature import CONV_ARGUMENTS
from .building import build_layer


@MODELS.register_module()
def ReplaceConvs(network: dict, where: str, layer: dict, **arguments: Any) -> nn.Module:  # named as in configs
    """Build a network, and replace some of its convolutions with a layer of this package.

    For networks without ``plugins`` and ``dcn``, as backbone or neck: ``backbone=dict(type='ReplaceConvs',
    network=dict(type='CSPNeXt', ...), where=r'stage4\\..*conv1', layer=dict(type='ACmix'))``.

    The result is the network itself, not a wrapper. Its attributes are those that the host expects, and checkpoints of
    the plain network, from ``init_cfg`` or otherwise, load into everything that was not replaced.

    Args:
        network: The network's config.
        where, layer: See ``replace_convs``.
        arguments: Further arguments of the network, which take precedence over those in ``network``. The hosts add
            some to the config of a backbone, for example MMSegmentation ``pretrained``.

    Raises:
        UserError: See ``replace_convs``.
    """
    return replace_convs(MODELS.build({**network, **arguments}), where, layer)


def replace_convs(network: nn.Module, where: str, layer: dict) -> nn.Module:
    """Replace convolutions of a network with a layer of this package.

    A layer keeps channels, kernel size, stride, padding, dilation, groups and bias of its convolution, its device and
    its data type. Its weights are new. A shared convolution is replaced by one shared layer. Convolutions inside layers
    of this package stay.

    Args:
        network: The network; it is modified.
        where: Regular expression, searched for in the names of all convolutions larger than 1x1, as
            ``network.named_modules()`` gives them: ``r'stage4\\..*conv1'`` finds ``stage4.2.blocks.0.conv1.conv``.
        layer: Config of the layer, ``ACmix``, ``XVolution`` or ``LESA``, without the arguments of a convolution:
            ``dict(type='ACmix', num_heads=4, attention_kernel_size=7)``.

    Returns:
        The same network.

    Raises:
        UserError: ``where`` finds no convolution, or one that the layer cannot replace; the network is unchanged.
        ValueError: ``layer`` has arguments of a convolution, or no registered type.
    """
    check_without(CONV_ARGUMENTS, layer=layer)
    try:
        pattern = re.compile(where)
    except (re.error, TypeError) as error:
        raise UserError(f'where must be a regular expression, got {where!r}: {error}') from error
    modules = dict(network.named_modules(remove_duplicate=False))  # a convolution may be shared, and has several names
    inside = tuple(f'{name}.' for name, module in modules.items() if isinstance(module, MixingLayer))
    convs = {
        name: module
        for name, module in modules.items()
        if isinstance(module, _ConvNd) and max(module.kernel_size) > 1 and not name.startswith(inside)
    }
    chosen = {conv: name for name, conv in convs.items() if pattern.search(name)}
    if not chosen:
        names = f'{next(iter(convs))} to {list(convs)[-1]}' if convs else 'there are none'
        raise UserError(
            f'where={where!r} finds no convolution larger than 1x1 in {type(network).__name__}; their names: {names}'
        )
    replacements = {conv: _replacement(name, conv, layer) for conv, name in chosen.items()}
    for name, conv in convs.items():
        if conv in replacements:
            parent, _, child = name.rpartition('.')
            setattr(network.get_submodule(parent), child, replacements[conv])
    return network


def _replacement(name: str, conv: _ConvNd, layer: dict) -> nn.Module:
    """The layer in place of a convolution."""
    if not isinstance(conv, nn.Conv2d) or conv.padding_mode != 'zeros':
        raise UserError(f'{name} must be a Conv2d that pads with zeros to be replaced, got {conv}')
    arguments = {argument: getattr(conv, argument) for argument in CONV_ARGUMENTS}
    padding = {'same': None, 'valid': 0}.get(conv.padding, conv.padding)
    arguments |= dict(bias=conv.bias is not None, padding=padding)
    if not conv.weight.requires_grad:  # some networks freeze stages when they are built
        raise UserError(f'{name} cannot be replaced: it is frozen, so the layer would keep its random weights')
    try:
        replacement = build_layer(layer, **arguments)
    except ValueError as error:
        raise UserError(f'{name} cannot be replaced: {error}') from error
    return replacement.to(conv.weight).train(conv.training)
