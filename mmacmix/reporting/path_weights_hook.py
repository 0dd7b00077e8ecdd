"""Logs the path weights while a network trains."""

from contextlib import ExitStack

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .guard import Guard
from .path_weights import PathWeights, observed_path_weights


@HOOKS.register_module()
class PathWeightsHook(Hook):
    """Logs to the run's scalars, for every layer of this package, ``path_weights/<layer>/attention_share``, the
    attention path's share in the norms of both paths' outputs, and for ACmix ``.../attention_rate``, ``.../conv_rate``.

    Args:
        interval: Iterations from one to the next; also after the last one. Default: 50.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._guard = Guard('path weights')
        self._observing = ExitStack()
        self._observed: dict[str, PathWeights] | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        step = runner.iter + 1
        if is_main_process() and (step % self.interval == 0 or step == runner.max_iters):
            self._observed = self._observing.enter_context(observed_path_weights(runner.model, self._guard))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        if self._observed is None:
            return
        self._observing.close()
        observed, self._observed = self._observed, None
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
    """The name that a layer has without what wraps the network for several processes."""
    return layer.replace('_fsdp_wrapped_module.', '').removeprefix('module.')
