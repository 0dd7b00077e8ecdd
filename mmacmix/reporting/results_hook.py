"""Writes the results of an evaluation where users look for them."""

import csv
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.utils.dl_utils import collect_env
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import DataLoader

from .complexity import count_parameters
from .gallery import draw_gallery
from .guard import Guard
from .quality import image_quality
from .selection import Judged, Selection, choose
from .settings import settings_of

_SCORE = 0.3  # predicted objects with lower scores are neither judged nor drawn


class _Seen(NamedTuple):
    """What one process keeps of the images it evaluates."""

    qualities: dict[str, float]  # by path
    candidates: list[Judged]
    first: list[BaseDataElement]  # of those that cannot be judged
    empty: dict[str, bool]  # images without objects, by path: whether any was predicted


class ResultsHook(Hook):
    """After every evaluation: tables and a gallery in the work directory.

    ``results.md`` and ``results.json`` hold the metrics, those of each class too. ``images.csv`` lists the images from
    worst to best (``mmacmix.reporting.image_quality``). ``gallery.png`` shows a few of the worst, of the middle and of
    the best: input, ground truth, prediction. Images without objects are counted instead of shown. Without ground truth
    it shows the first images. What a test writes has the prefix ``test_``, so that it stands beside what training left.
    Before training, ``run.json`` gets what the report says about network, config and machine.

    Whatever goes wrong here gets one warning and ends nothing.

    Args:
        images: Images in the gallery, a third each of the worst, the middle and the best. Default: 12.
    """

    priority = 'LOWEST'

    def __init__(self, images: int = 12) -> None:
        self.images = images
        self._guard = Guard('results')
        self._start(None, None)

    def before_train(self, runner: Runner) -> None:
        with self._guard():
            parameters = count_parameters(runner.model)
            if isinstance(runner.model, FullyShardedDataParallel):
                parts = all_gather_object(parameters)
                parameters = {name: sum(part[name] for part in parts) for name in parameters}
            if not is_main_process():
                return
            machine = f'{platform.machine()}, {os.cpu_count()} CPU cores'
            environment = dict(machine=machine, **_versions(), **collect_env())
            run = dict(
                config=Path(runner.cfg.filename or runner.work_dir).stem,
                processes=get_world_size(),
                batch_size=(runner.cfg.get('train_dataloader') or {}).get('batch_size'),
                settings=settings_of(runner.cfg),
                parameters=parameters,
                environment={name: str(value) for name, value in environment.items()},
            )
            (Path(runner.work_dir) / 'run.json').write_text(json.dumps(run, indent=1))

    def before_val_epoch(self, runner: Runner) -> None:
        self._start(runner.val_dataloader, runner.val_evaluator)

    def before_test_epoch(self, runner: Runner) -> None:
        self._start(runner.test_dataloader, runner.test_evaluator)

    def _start(self, dataloader: DataLoader | None, evaluator: Evaluator | None) -> None:
        self._selection = Selection(self.images)
        self._seen = _Seen({}, [], [], {})
        of_metrics = [getattr(metric, 'ignore_index', None) for metric in getattr(evaluator, 'metrics', [])]
        of_dataset = getattr(getattr(dataloader, 'dataset', None), 'ignore_index', None)
        self._ignore_index = next((each for each in (*of_metrics, of_dataset) if each is not None), 255)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        with self._guard():
            for sample in outputs or []:
                self._see(sample)

    after_test_iter = after_val_iter

    def _see(self, sample: BaseDataElement) -> None:
        quality = image_quality(sample, _SCORE, self._ignore_index)
        is_empty = 'gt_instances' in sample and not len(sample.gt_instances)
        if is_empty:
            self._seen.empty[sample.img_path] = quality is not None
        if quality is not None:
            self._seen.qualities[sample.img_path] = quality
            if not is_empty:
                self._selection.add(Judged(quality, _light(sample)))
        elif not is_empty and len(self._seen.first) < self.images:
            self._seen.first.append(_light(sample))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, metrics or {}, '')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, metrics or {}, 'test_')

    def _report(self, runner: Runner, metrics: dict[str, float], prefix: str) -> None:
        with self._guard():
            # All processes get here, whatever befell their images.
            parts = all_gather_object(self._seen._replace(candidates=self._selection.candidates))
            if is_main_process():
                table, images, gallery = (
                    Path(runner.work_dir) / f'{prefix}{name}' for name in ('results.md', 'images.csv', 'gallery.png')
                )
                _write_metrics(metrics, table)
                self._show(runner, parts, images, gallery)
                runner.logger.info(f'Results are in {table}, pictures in {gallery}')

    def _show(self, runner: Runner, parts: list[_Seen], images: Path, gallery: Path) -> None:
        qualities = {path: quality for part in parts for path, quality in part.qualities.items()}
        if qualities:
            with images.open('w', newline='') as file:
                lines = [
                    (path, f'{quality:.4f}') for path, quality in sorted(qualities.items(), key=lambda each: each[1])
                ]
                csv.writer(file).writerows([('image', 'quality'), *lines])
        candidates = [judged for part in parts for judged in part.candidates]
        chosen = choose(candidates, statistics.median(qualities.values()), self.images) if candidates else []
        shown = chosen or [Judged(None, sample) for part in parts for sample in part.first][: self.images]
        empty = {path: found for part in parts for path, found in part.empty.items()}
        if shown:
            draw_gallery(
                [judged.sample for judged in shown],
                runner.visualizer,
                gallery,
                score_thr=_SCORE,
                captions=[_caption(judged) for judged in shown],
                ignore_index=self._ignore_index,
                note=_note(empty, len(qualities) + sum(not found for found in empty.values())),
            )


def _write_metrics(metrics: dict[str, float], path: Path) -> None:
    metrics = {name: float(value) for name, value in metrics.items()}  # of NumPy's types or Python's
    path.with_suffix('.json').write_text(json.dumps(metrics, indent=1))
    rows = [f'| {name} | {value:.3f} |' for name, value in metrics.items()]
    table = '\n'.join(['| metric | value |', '| --- | --- |', *rows, ''])
    path.write_text(table if metrics else 'No metrics: the model found nothing.\n')


def _versions() -> dict[str, str]:
    """Versions of this package and of the host libraries that the run uses."""
    names = ('mmacmix', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
    return {name: sys.modules[name].__version__ for name in names if name in sys.modules}


def _light(sample: BaseDataElement) -> BaseDataElement:
    """A copy on the CPU without what is large and not drawn."""
    light = sample.new()
    for name, value in sample.items():
        if name == 'pred_instances':
            value = value[value.scores >= _SCORE]
        if name != 'seg_logits':  # a number for every class and pixel, larger than all the rest
            light.set_data({name: value})
    return light.cpu()


def _caption(judged: Judged) -> str:
    name = Path(judged.sample.img_path).name
    return name if judged.quality is None else f'{name}: {judged.quality:.2f}'


def _note(empty: dict[str, bool], images: int) -> str:
    if not empty:
        return ''
    found = sum(empty.values())
    return f'{len(empty)} of {images} images have no objects and are not shown; something was found in {found} of them'
