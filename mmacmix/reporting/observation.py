"""Watching the layers of this package while a network runs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from ..layers import MixingLayer


@contextmanager
def observed_layers(model: nn.Module, observe: Callable[[str, MixingLayer, Tensor], None]) -> Iterator[None]:
    """Within the context, call ``observe(name, layer, x)`` before each layer of this package runs on ``x``."""
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, MixingLayer):
                hooks.enter_context(
                    module.register_forward_pre_hook(lambda layer, inputs, name=name: observe(name, layer, inputs[0]))
                )
        yield
