"""Checkpoints that survive crashes."""

import re
from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .atomic_files import BACKEND


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, for training that may be killed or run out of disk space at any moment.

    Checkpoints are written atomically, and the oldest of ``max_keep_ckpts`` is removed only after the newest has been
    written. A best checkpoint that is superseded is removed only from the output folder, regardless of the path stored
    in the checkpoint that training resumed from.

    Args:
        backend_args: Where checkpoints are written, as for MMEngine. Default: local files, written atomically.
        arguments: See MMEngine.
    """

    def __init__(self, *arguments: Any, backend_args: dict | None = None, **named: Any) -> None:
        super().__init__(*arguments, backend_args=backend_args or dict(backend=BACKEND), **named)

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if self.save_best is None:
            return
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = self._in_out_dir(self.best_ckpt_path)
        else:
            self.best_ckpt_path_dict = {key: self._in_out_dir(path) for key, path in self.best_ckpt_path_dict.items()}

    def _in_out_dir(self, best: str | None) -> str | None:
        name = Path(best or '').name
        return self.file_backend.join_path(self.out_dir, name) if name.startswith('best_') else None

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        limit = self.max_keep_ckpts
        if limit > 0:  # MMEngine would remove the oldest checkpoint before it writes the newest
            self.max_keep_ckpts, self.keep_ckpt_ids = limit + 1, deque(self.keep_ckpt_ids)
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.max_keep_ckpts = limit
        while 0 < limit < len(self.keep_ckpt_ids):
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            if is_main_process() and self.file_backend.isfile(path):
                self.file_backend.remove(path)


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint to resume from, or None if there is none.

    It is the file that MMEngine's ``last_checkpoint`` names. If a crash left ``last_checkpoint`` empty, or that file is
    missing, it is the checkpoint with the most iterations or epochs.
    """
    work_dir = Path(work_dir)
    note = work_dir / 'last_checkpoint'
    named = note.read_text().strip() if note.exists() else ''
    if named and Path(named).exists():
        return named
    pattern = re.compile(r'(?:iter|epoch)_(\d+)\.pth')
    numbered = {int(match[1]): path for path in work_dir.glob('*.pth') if (match := pattern.fullmatch(path.name))}
    return str(numbered[max(numbered)]) if numbered else None
