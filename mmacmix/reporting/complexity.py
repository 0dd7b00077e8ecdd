"""Parameters and multiply-adds of a network, by part."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import nn

from ..layers import Macs, MixingLayer
from ..ops import unfused_attention
from .observation import observed_layers


class Part(NamedTuple):
    """Size of a part of a network."""

    parameters: int
    macs: int  # multiply-adds

    def __add__(self, other: 'Part') -> 'Part':
        return Part(self.parameters + other.parameters, self.macs + other.macs)


PARTS = (*Macs._fields, 'rest')


def model_complexity(model: nn.Module, run: Callable[[], object]) -> dict[str, Part]:
    """Count a network's parameters and multiply-adds.

    The layers of this package report the multiply-adds that their operator is defined by, which do not depend on the
    backend (``mmacmix.layers.MixingLayer.macs``). Everything else is counted by torch as it is computed: convolutions,
    linear layers, matrix products.

    Args:
        model: The network.
        run: Runs it once.

    Returns:
        ``projections`` (shared by both paths of a layer), ``attention``, ``convolution``, and the ``rest``.
    """
    from torch.utils.flop_counter import FlopCounterMode  # torch 2.1

    counter, in_layers = FlopCounterMode(display=False), 0
    reported = [Macs(0, 0, 0)]

    def before(name: str, layer: MixingLayer, x: torch.Tensor) -> None:
        nonlocal in_layers
        reported.append(layer.macs(x.shape))
        in_layers -= counter.get_total_flops()

    def after(*_) -> None:
        nonlocal in_layers
        in_layers += counter.get_total_flops()

    with torch.no_grad(), observed_layers(model, before), ExitStack() as hooks:
        for layer in model.modules():
            if isinstance(layer, MixingLayer):
                hooks.enter_context(layer.register_forward_hook(after))
        with unfused_attention(), counter:  # the counter does not know every fused attention kernel
            run()
    rest = counter.get_total_flops() - in_layers
    macs = (*(sum(part) for part in zip(*reported, strict=True)), rest // 2)
    parameters = count_parameters(model)
    return {part: Part(parameters[part], number) for part, number in zip(PARTS, macs, strict=True)}


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count a network's parameters, by the same parts."""
    parts = {
        parameter: layer.part_of(name)
        for layer in model.modules()
        if isinstance(layer, MixingLayer)
        for name, parameter in layer.named_parameters()
    }
    numbers = dict.fromkeys(PARTS, 0)
    for parameter in model.parameters():
        numbers[parts.get(parameter, 'rest')] += parameter.numel()
    return numbers
