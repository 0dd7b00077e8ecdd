"""Stops training when a loss or a weight is not finite."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..errors import UserError, listed
from .checkpoint_hook import latest_checkpoint


@HOOKS.register_module()
class FiniteHook(Hook):
    """Stops training at the first non-finite loss, and before a checkpoint with non-finite weights is saved.

    Raises:
        UserError: Names the iteration, the losses and their images, or a weight, and the last checkpoint.
    """

    priority = 'NORMAL'  # before checkpoints are written

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        outputs = outputs or {}
        if 'loss' not in outputs or torch.as_tensor(outputs['loss']).isfinite().all():
            return
        losses = [name for name, value in outputs.items() if not torch.as_tensor(value).isfinite().all()]
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        paths = [path for sample in samples or [] if (path := sample.get('img_path'))]
        images = f' for {listed(paths, 4)}' if paths else ''
        verb = 'is' if len(losses) == 1 else 'are'
        _stop(runner, f'{", ".join(losses)} {verb} not finite in iteration {runner.iter + 1}{images}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        weights = [name for name, value in checkpoint['state_dict'].items() if not value.isfinite().all()]
        if weights:
            verb = 'is' if len(weights) == 1 else 'are'
            _stop(runner, f'{listed(weights, 1)} {verb} not finite after iteration {checkpoint["meta"]["iter"]}')


def _stop(runner: Runner, reason: str) -> None:
    last = latest_checkpoint(runner.work_dir)
    raise UserError(
        f'training stops: {reason}; {f"the last checkpoint is {last}" if last else "there is no checkpoint"}'
    )
