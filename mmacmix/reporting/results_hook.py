"""Leaves the results of an evaluation where the user looks for them."""

import json
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from .class_iou import ClassIoU
from .gallery import draw_gallery


class ResultsHook(Hook):
    """After every evaluation: a table and a gallery in the work directory.

    ``results.md`` and ``results.json`` hold the metrics, of a segmentor class by class too, ``gallery.png`` the first
    images: input, ground truth, prediction. What a test writes has ``test_`` in front, so that it stands beside what
    training left.

    Args:
        images: Images in the gallery. Default: 12.
    """

    priority = 'LOWEST'

    def __init__(self, images: int = 12) -> None:
        self.images = images
        self._samples: list = []
        self._class_iou: ClassIoU | None = None

    def before_val_epoch(self, runner: Runner) -> None:
        self._start(runner.val_dataloader)

    def before_test_epoch(self, runner: Runner) -> None:
        self._start(runner.test_dataloader)

    def _start(self, dataloader: DataLoader) -> None:
        self._samples = []
        classes = dataloader.dataset.metainfo.get('classes')
        self._class_iou = ClassIoU(classes, len(dataloader.dataset)) if classes else None

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        outputs = outputs or []
        for sample in outputs[: self.images - len(self._samples)]:
            sample.pop('seg_logits', None)  # larger than all the rest, a number for every class and pixel
            self._samples.append(sample)
        if self._class_iou and any('pred_sem_seg' in sample for sample in outputs):
            self._class_iou.add(outputs)

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, metrics or {}, '')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, metrics or {}, 'test_')

    def _report(self, runner: Runner, metrics: dict[str, float], prefix: str) -> None:
        if self._class_iou:  # of all processes
            metrics = metrics | {f'IoU/{name}': iou for name, iou in self._class_iou.compute().items()}
        if not is_main_process():
            return
        metrics = {name: float(value) for name, value in metrics.items()}  # of numpy's types or Python's
        table, gallery = (Path(runner.work_dir) / f'{prefix}{name}' for name in ('results.md', 'gallery.png'))
        table.with_suffix('.json').write_text(json.dumps(metrics, indent=1))
        table.write_text(_table(metrics))
        if self._samples:
            draw_gallery(self._samples, runner.visualizer, gallery)
        runner.logger.info(f'Results are in {table}, pictures in {gallery}')


def _table(metrics: dict[str, float]) -> str:
    if not metrics:
        return 'No metrics: the model found nothing.\n'
    rows = [f'| {name} | {value:.3f} |' for name, value in metrics.items()]
    return '\n'.join(['| metric | value |', '| --- | --- |', *rows, ''])
