"""Leaves the results of an evaluation where the user looks for them."""

import json
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .gallery import draw_gallery


class ResultsHook(Hook):
    """After every evaluation: a table and a gallery in the work directory.

    ``results.md`` and ``results.json`` hold the metrics, ``gallery.png`` the first images: input, ground truth,
    prediction. What a test writes has ``test_`` in front, so that it stands beside what training left.

    Args:
        images: Images in the gallery. Default: 12.
    """

    priority = 'LOWEST'

    def __init__(self, images: int = 12) -> None:
        self.images = images
        self._samples: list = []

    def before_val_epoch(self, runner: Runner) -> None:
        self._samples = []

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        self._samples += (outputs or [])[: self.images - len(self._samples)]

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, metrics or {}, '')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, metrics or {}, 'test_')

    def _report(self, runner: Runner, metrics: dict[str, float], prefix: str) -> None:
        if not is_main_process():
            return
        table, gallery = (Path(runner.work_dir) / f'{prefix}{name}' for name in ('results.md', 'gallery.png'))
        table.with_suffix('.json').write_text(json.dumps(metrics, indent=1))
        table.write_text(_table(metrics))
        if self._samples:
            draw_gallery(self._samples, runner.visualizer, gallery)
        runner.logger.info(f'Results are in {table}, pictures in {gallery}')

    before_test_epoch, after_test_iter = before_val_epoch, after_val_iter


def _table(metrics: dict[str, float]) -> str:
    if not metrics:
        return 'No metrics: the model found nothing.\n'
    rows = [f'| {name} | {value:.3f} |' for name, value in metrics.items()]
    return '\n'.join(['| metric | value |', '| --- | --- |', *rows, ''])
