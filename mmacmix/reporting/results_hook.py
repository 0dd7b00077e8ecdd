"""Leaves the results of an evaluation where the user looks for them."""

import csv
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.utils.dl_utils import collect_env
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import DataLoader

from .class_iou import ClassIoU
from .complexity import count_parameters
from .gallery import draw_gallery
from .image_quality import image_quality

_SCORE = 0.3  # predicted objects with lower ones are neither judged nor drawn


class ResultsHook(Hook):
    """After every evaluation: tables and a gallery in the work directory.

    ``results.md`` and ``results.json`` hold the metrics, class by class too. ``images.csv`` lists the
    images from worst to best (``mmacmix.reporting.image_quality``), and ``gallery.png`` shows the first and the
    last of that list: input, ground truth, prediction. Where there is no ground truth it shows the first images. What a
    test writes has ``test_`` in front, so that it stands beside what training left. Before training
    ``run.json`` gets what the report says of network and machine.

    Args:
        images: Images in the gallery, half of them the worst, half of them the best. Default: 12.
    """

    priority = 'LOWEST'

    def __init__(self, images: int = 12) -> None:
        self.images = images
        self._qualities: list[tuple[str, float]] = []
        self._extremes: list[tuple[float, BaseDataElement]] = []
        self._first: list[BaseDataElement] = []  # of those that can't be judged
        self._class_iou: ClassIoU | None = None

    def before_train(self, runner: Runner) -> None:
        parameters = count_parameters(runner.model)
        if isinstance(runner.model, FullyShardedDataParallel):
            parts = all_gather_object(parameters)
            parameters = {name: sum(part[name] for part in parts) for name in parameters}
        if is_main_process():
            environment = dict(
                machine=f'{platform.machine()}, {os.cpu_count()} CPU cores', **_versions(), **collect_env()
            )
            run = dict(
                config=Path(runner.cfg.filename or runner.work_dir).stem,
                processes=get_world_size(),
                parameters=parameters,
                environment={name: str(value) for name, value in environment.items()},
            )
            (Path(runner.work_dir) / 'run.json').write_text(json.dumps(run, indent=1))

    def before_val_epoch(self, runner: Runner) -> None:
        self._start(runner.val_dataloader, runner.val_evaluator)

    def before_test_epoch(self, runner: Runner) -> None:
        self._start(runner.test_dataloader, runner.test_evaluator)

    def _start(self, dataloader: DataLoader, evaluator: Evaluator) -> None:
        for metric in evaluator.metrics:
            if hasattr(metric, 'classwise'):  # MMDetection's AP
                metric.classwise = True
        self._qualities, self._extremes, self._first = [], [], []
        classes = dataloader.dataset.metainfo.get('classes')
        self._class_iou = ClassIoU(classes, len(dataloader.dataset)) if classes else None

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        for sample in outputs or []:
            quality = image_quality(sample, _SCORE)
            if quality is not None:
                self._qualities.append((sample.img_path, quality))
                self._keep_extremes(quality, sample)
            elif len(self._first) < self.images:
                self._first.append(_light(sample))
        if self._class_iou and any('pred_sem_seg' in sample for sample in outputs or []):
            self._class_iou.add(outputs)

    after_test_iter = after_val_iter

    def _keep_extremes(self, quality: float, sample: BaseDataElement) -> None:
        """Keep a sample if it is one of the worst or of the best so far."""
        kept, middle = self._extremes, self.images // 2
        if len(kept) == self.images:
            if kept[middle - 1][0] <= quality <= kept[middle][0]:
                return
            del kept[middle if quality > kept[middle][0] else middle - 1]
        kept.append((quality, _light(sample)))
        kept.sort(key=lambda each: each[0])

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, metrics or {}, '')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, metrics or {}, 'test_')

    def _report(self, runner: Runner, metrics: dict[str, float], prefix: str) -> None:
        if self._class_iou:  # of all processes
            metrics = metrics | {f'IoU/{name}': iou for name, iou in self._class_iou.compute().items()}
        qualities, extremes, first = self._of_all_processes()
        if not is_main_process():
            return
        metrics = {name: float(value) for name, value in metrics.items()}  # of numpy's types or Python's
        table, images, gallery = (
            Path(runner.work_dir) / f'{prefix}{name}' for name in ('results.md', 'images.csv', 'gallery.png')
        )
        table.with_suffix('.json').write_text(json.dumps(metrics, indent=1))
        table.write_text(_table(metrics))
        if qualities:
            with images.open('w', newline='') as file:
                lines = [(path, f'{quality:.4f}') for path, quality in sorted(qualities, key=lambda each: each[1])]
                csv.writer(file).writerows([('image', 'quality'), *lines])
        shown = extremes or [(None, sample) for sample in first]
        if shown:
            draw_gallery(
                [sample for _, sample in shown],
                runner.visualizer,
                gallery,
                score_thr=_SCORE,
                captions=[_caption(quality, sample) for quality, sample in shown],
            )
        runner.logger.info(f'Results are in {table}, pictures in {gallery}')

    def _of_all_processes(self) -> tuple[list, list, list]:
        """Qualities, extremes and first images; of those that two processes had, which fills up their shares, one."""
        parts = all_gather_object((self._qualities, self._extremes, self._first))
        qualities, extremes, first = ([each for part in field for each in part] for field in zip(*parts, strict=True))
        extremes = {sample.img_path: (quality, sample) for quality, sample in extremes}
        extremes = sorted(extremes.values(), key=lambda each: each[0])
        if len(extremes) > self.images:
            middle = self.images // 2
            extremes = extremes[:middle] + extremes[middle - self.images :]
        return list(dict(qualities).items()), extremes, first[: self.images]


def _versions() -> dict[str, str]:
    """Those of this package and of the hosts that the run uses."""
    names = ('mmacmix', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
    return {name: sys.modules[name].__version__ for name in names if name in sys.modules}


def _light(sample: BaseDataElement) -> BaseDataElement:
    """A copy without what is large and not drawn."""
    light = sample.new()
    for name, value in sample.items():
        if name == 'pred_instances':
            value = value[value.scores >= _SCORE]
        if name != 'seg_logits':  # larger than all the rest, a number for every class and pixel
            light.set_data({name: value})
    return light


def _caption(quality: float | None, sample: BaseDataElement) -> str:
    name = Path(sample.img_path).name
    return name if quality is None else f'{name}: {quality:.2f}'


def _table(metrics: dict[str, float]) -> str:
    if not metrics:
        return 'No metrics: the model found nothing.\n'
    rows = [f'| {name} | {value:.3f} |' for name, value in metrics.items()]
    return '\n'.join(['| metric | value |', '| --- | --- |', *rows, ''])
