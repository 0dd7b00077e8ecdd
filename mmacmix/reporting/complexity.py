"""Parameters and multiply-adds of a network, by part."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..layers import Macs, MixingLayer


class Part(NamedTuple):
    """A part of a network."""

    parameters: int
    macs: int

    def __add__(self, other: 'Part') -> 'Part':
        return Part(*(a + b for a, b in zip(self, other, strict=True)))


PARTS = (*Macs._fields, 'rest')


def model_complexity(model: nn.Module, run: Callable[[], object]) -> dict[str, Part]:
    """Count a network's parameters and multiply-adds.

    Those of the layers of this package are what the operator asks for (``mmacmix.layers.MixingLayer.macs``),
    so that networks compare independently of the backend. All others are counted by torch as they are computed:
    convolutions, linear layers, matrix products.

    Args:
        model: The network.
        run: Runs it once on what shall be counted.

    Returns:
        ``projections`` (what both paths of a layer share), ``attention``, ``convolution``, and the ``rest``.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MixingLayer)}
    asked_for = []
    hooks = [
        module.register_forward_pre_hook(lambda layer, inputs: asked_for.append(layer.macs(inputs[0].shape)))
        for module in layers.values()
    ]
    counter = FlopCounterMode(display=False)
    try:
        # The counter does not know all fused kernels of attention.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    flops = counter.get_flop_counts()
    top = type(model).__name__
    computed = {name: sum(by_operation.values()) // 2 for name, by_operation in flops.items()}
    rest = counter.get_total_flops() // 2 - sum(computed.get(f'{top}.{name}', 0) for name in layers)
    macs = [sum(part) for part in zip(*asked_for, strict=True)] or [0, 0, 0]
    parameters = count_parameters(model)
    return {part: Part(parameters[part], number) for part, number in zip(PARTS, (*macs, rest), strict=True)}


def count_parameters(model: nn.Module) -> dict[str, int]:
    """A network's parameters, by the same parts."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MixingLayer)}
    parameters = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        parameters[_part_of(name, layers)] += parameter.numel()
    return parameters


def _part_of(parameter: str, layers: dict[str, MixingLayer]) -> str:
    prefix = parameter
    while prefix:
        prefix = prefix.rpartition('.')[0]
        if prefix in layers:
            return layers[prefix].part_of(parameter.removeprefix(f'{prefix}.'))
    return 'rest'
