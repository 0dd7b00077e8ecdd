"""A training whose numbers are no longer finite ends."""

from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..errors import UserError
from .checkpoint_hook import latest_checkpoint


@HOOKS.register_module()
class FiniteHook(Hook):
    """Ends a training at the first loss that is not finite, and never lets weights that are not into a checkpoint.

    Raises:
        UserError: Of the iteration, the losses and the images, and the checkpoint that is left.
    """

    priority = 'NORMAL'  # before checkpoints are written

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        outputs = outputs or {}
        if 'loss' not in outputs or torch.as_tensor(outputs['loss']).isfinite().all():
            return
        wrong = [name for name, value in outputs.items() if not torch.as_tensor(value).isfinite().all()]
        paths = _images(data_batch)
        of = f', of {", ".join(paths[:4])}{" and more" if len(paths) > 4 else ""}' if paths else ''
        self._end(runner, f'{", ".join(wrong)} of iteration {runner.iter + 1} {_is(wrong)} not finite{of}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        wrong = [name for name, value in checkpoint['state_dict'].items() if not value.isfinite().all()]
        if wrong:
            self._end(runner, f'{len(wrong)} weights are not finite after iteration {runner.iter + 1}: {wrong[0]}')

    def _end(self, runner: Runner, what: str) -> None:
        left = latest_checkpoint(runner.work_dir)
        raise UserError(
            f'training ends: {what}; {f"the last checkpoint is {left}" if left else "no checkpoint is left"}'
        )


def _images(data_batch: dict | None) -> list[str]:
    samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
    return [sample.get('img_path') for sample in samples or [] if sample.get('img_path')]


def _is(names: Sequence[str]) -> str:
    return 'is' if len(names) == 1 else 'are'
