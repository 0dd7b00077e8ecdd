"""Checkpoints that a crash leaves usable."""

import re
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .atomic_files import BACKEND


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, for trainings that are killed, or whose disk runs full, at any moment.

    A checkpoint has its name when it is whole, and the oldest of ``max_keep_ckpts`` goes when the newest is there, not
    before. When there is a new best one, the one before goes only from the folder that checkpoints are written to,
    whatever file or folder the checkpoint that training went on from calls the best.

    Args:
        backend_args: Where checkpoints are written, as MMEngine takes it. Default: this package's atomic local files.
        arguments: MMEngine's others.
    """

    def __init__(self, *arguments: Any, backend_args: dict | None = None, **named: Any) -> None:
        super().__init__(*arguments, backend_args=backend_args or dict(backend=BACKEND), **named)

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if self.save_best is None:
            return
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = self._own(self.best_ckpt_path)
        else:
            self.best_ckpt_path_dict = {key: self._own(path) for key, path in self.best_ckpt_path_dict.items()}

    def _own(self, best: str | None) -> str | None:
        name = Path(best or '').name
        return self.file_backend.join_path(self.out_dir, name) if name.startswith('best_') else None

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        keep = self.max_keep_ckpts
        if keep <= 0:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        before = list(self.keep_ckpt_ids)
        if step not in before:
            self.keep_ckpt_ids.append(step)  # of a limited length
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.max_keep_ckpts = -1  # it would remove first
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.max_keep_ckpts = keep
        for old in set(before).difference(self.keep_ckpt_ids):
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
            if is_main_process() and self.file_backend.isfile(path):
                self.file_backend.remove(path)


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint to go on from, or None.

    The one that MMEngine's ``last_checkpoint`` names; where a crash left that file without a name, or with the name of
    a file that is gone, the one of the most iterations or epochs.
    """
    work_dir = Path(work_dir)
    note = work_dir / 'last_checkpoint'
    named = note.read_text().strip() if note.exists() else ''
    if named and Path(named).exists():
        return named
    numbered = {int(match[1]): path for path in work_dir.glob('*.pth') if (match := _NUMBERED.fullmatch(path.name))}
    return str(numbered[max(numbered)]) if numbered else None


_NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')
