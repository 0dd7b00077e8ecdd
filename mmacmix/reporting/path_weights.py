"""Weights of a layer's two paths, attention and convolution (ACmix: arXiv 2111.14556, section 5.4)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import NamedTuple

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..layers import MixingLayer
from .guard import Guard
from .observation import observed_layers

_RATES = ('attention_rate', 'conv_rate')


class PathWeights(NamedTuple):
    """Weights of a layer's two paths."""

    attention_rate: float | None = None  # only ACmix has rates
    conv_rate: float | None = None
    attention_share: float | None = None  # attention's share in the sum of both paths' output norms, 0 to 1


def path_weights_of(state_dict: dict[str, Tensor]) -> dict[str, PathWeights]:
    """The learned rates in a state dict: layer to its rates, in the network's order."""
    prefixes = [name.removesuffix(_RATES[0]) for name in state_dict if name.endswith(_RATES[0])]
    return {
        prefix.removesuffix('.'): PathWeights(*(state_dict[prefix + rate].float().item() for rate in _RATES))
        for prefix in prefixes
    }


def logged_path_weights(lines: Sequence[dict]) -> tuple[list[int], dict[str, list[PathWeights]]]:
    """Read the scalars that ``PathWeightsHook`` logged.

    Returns:
        The steps at which all layers of the last measurement were measured, and the layers' weights at these steps.
    """
    shares = [{name for name in line if name.endswith('/attention_share')} for line in lines]
    last = next((line for line in reversed(shares) if line), set())
    lines = [line for line, measured in zip(lines, shares, strict=True) if last and measured >= last]
    layers: dict[str, list[PathWeights]] = {}
    for line in lines:
        for name in filter(last.__contains__, line):
            layer = name.removeprefix('path_weights/').removesuffix('/attention_share')
            values = (line.get(f'path_weights/{layer}/{field}') for field in PathWeights._fields)
            layers.setdefault(layer, []).append(PathWeights(*values))
    return [line['step'] for line in lines], layers


@contextmanager
def observed_path_weights(
    model: nn.Module, guard: Callable[[], AbstractContextManager] = nullcontext
) -> Iterator[dict[str, PathWeights]]:
    """Within the context, pass the first input of every layer also through each of its paths alone.

    Args:
        model: The network.
        guard: Makes the context in which each measurement runs. Default: one without effect.

    Yields:
        A dictionary that the network's forward pass fills: layer to its weights.
    """
    layers: dict[str, PathWeights] = {}

    def observe(name: str, layer: MixingLayer, x: Tensor) -> None:
        if name not in layers:  # measuring may call the layer again
            with guard():
                layers[name] = PathWeights(*(getattr(layer, rate).item() for rate in _RATES if hasattr(layer, rate)))
                layers[name] = layers[name]._replace(attention_share=attention_share(layer, x))

    with observed_layers(model, observe):
        yield layers


@torch.no_grad()
def attention_share(layer: MixingLayer, x: Tensor) -> float:
    """``|attention| / (|attention| + |convolution|)``: Frobenius norms of both paths' contributions to the output.

    Both are computed in eval mode: with running statistics and without dropout.
    """
    modes = {module: module.training for module in layer.modules()}
    caches = torch.is_autocast_cache_enabled()
    layer.eval()
    torch.set_autocast_cache_enabled(False)  # weights that are cast here, without gradients, must not be reused
    try:
        attention, convolution = (path.float().norm().item() for path in layer.paths(x))
    finally:
        torch.set_autocast_cache_enabled(caches)
        for module, training in modes.items():
            module.training = training
    total = attention + convolution
    return attention / total if total else 0.5


@HOOKS.register_module()
class PathWeightsHook(Hook):
    """Logs how much the two paths of every layer of this package contribute to its output.

    The scalars are ``path_weights/<layer>/attention_share``, the share of the attention path in the sum of both paths'
    output norms, and for ACmix ``path_weights/<layer>/attention_rate`` and ``.../conv_rate``. If one cannot be
    measured, training continues after a warning.

    Args:
        interval: Iterations between measurements; the last iteration is also measured. Default: 50.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._guard = Guard('path weights')
        self._observing = ExitStack()
        self._observed: dict[str, PathWeights] = {}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        step = runner.iter + 1
        if is_main_process() and (step % self.interval == 0 or step == runner.max_iters):
            self._observed = self._observing.enter_context(observed_path_weights(runner.model, self._guard))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        self._observing.close()
        observed, self._observed = self._observed, {}
        scalars = {
            f'path_weights/{_unwrapped(layer)}/{field}': value
            for layer, weights in observed.items()
            for field, value in weights._asdict().items()
            if value is not None
        }
        if scalars:
            with self._guard():
                runner.visualizer.add_scalars(scalars, step=runner.iter + 1)


def _unwrapped(layer: str) -> str:
    """A layer's name without the prefixes of distributed wrappers."""
    return layer.replace('_fsdp_wrapped_module.', '').removeprefix('module.')
