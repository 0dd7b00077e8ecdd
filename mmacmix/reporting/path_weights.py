"""Which layers attend and which convolve? The weights of ACmix's two paths (arXiv 2111.14556, section 5.4)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers import MixingLayer

_RATES = ('attention_rate', 'conv_rate')


class PathWeights(NamedTuple):
    """How much a layer's two paths count."""

    attention_rate: float | None = None  # ACmix alone has rates
    conv_rate: float | None = None
    attention_share: float | None = None  # of the paths' output norms, 0 to 1


def path_weights_of(state_dict: dict[str, Tensor]) -> dict[str, PathWeights]:
    """The rates of all layers in a state dict, by name, in the network's order. Rates that are not learned are not in
    it."""
    layers = [name.removesuffix('attention_rate').rstrip('.') for name in state_dict if name.endswith('attention_rate')]
    return {
        layer: PathWeights(*(state_dict[f'{layer}.{rate}'.lstrip('.')].float().item() for rate in _RATES))
        for layer in layers
    }


def logged_path_weights(lines: Sequence[dict]) -> tuple[list[int], dict[str, list[PathWeights]]]:
    """Steps, and each layer's weights at these, from what ``PathWeightsHook`` has logged."""
    layers: dict[str, list[PathWeights]] = {}
    for line in lines:
        for name in line:
            layer, _, kind = name.removeprefix('path_weights/').rpartition('/')
            if kind == 'attention_share':
                values = (line.get(f'path_weights/{layer}/{field}') for field in PathWeights._fields)
                layers.setdefault(layer, []).append(PathWeights(*values))
    return [line['step'] for line in lines], layers


@contextmanager
def observed_path_weights(
    model: nn.Module, guard: Callable[[], AbstractContextManager] = nullcontext
) -> Iterator[dict[str, PathWeights]]:
    """Within it, the first input of every layer is also put through each of its two paths.

    Args:
        model: The network.
        guard: A context that each measurement runs in. Default: none.

    Yields:
        A dictionary from layer to its weights, which is filled as the network runs.
    """
    layers: dict[str, PathWeights] = {}

    def observe(name: str) -> Callable[[MixingLayer, tuple[Tensor]], None]:
        def hook(layer: MixingLayer, inputs: tuple[Tensor]) -> None:
            if name in layers:  # measuring calls the layer, too
                return
            rates = [getattr(layer, rate).item() for rate in _RATES if hasattr(layer, rate)]
            layers[name] = PathWeights(*rates)
            with guard():
                layers[name] = layers[name]._replace(attention_share=attention_share(layer, *inputs))

        return hook

    handles = [
        module.register_forward_pre_hook(observe(name))
        for name, module in model.named_modules()
        if isinstance(module, MixingLayer)
    ]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def attention_share(layer: MixingLayer, x: Tensor) -> float:
    """``|attention| / (|attention| + |convolution|)``, Frobenius norms of what the two paths add to the layer's output.

    With evaluation's normalisation, and without dropout.
    """
    modes = {module: module.training for module in layer.modules()}
    layer.eval()
    try:
        norms = [path.float().norm().item() for path in layer.paths(x)]
    finally:
        for module, training in modes.items():
            module.training = training
    return norms[0] / sum(norms) if sum(norms) else 0.5
