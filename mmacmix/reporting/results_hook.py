"""A hook that writes the results of every evaluation into the work directory."""

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
from mmengine.visualization import Visualizer
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import DataLoader

from .complexity import count_parameters
from .gallery import INSTANCES, MAPS, draw_gallery
from .guard import Guard
from .quality import image_quality
from .selection import Judged, Selection, choose
from .settings import settings_of
from .tables import markdown_table

_SCORE = 0.3  # predicted objects with lower scores are neither judged nor drawn


class _Evaluated(NamedTuple):
    """The images that one process evaluated."""

    qualities: dict[str, float]  # by path; images with objects
    empty: dict[str, bool]  # by path; images without objects: whether any object was predicted
    unjudged: list[BaseDataElement]  # the first images without ground truth
    candidates: list[Judged]  # for the gallery


class ResultsHook(Hook):
    """After every evaluation, writes tables and a gallery into the work directory.

    ``results.md`` and ``results.json`` hold the metrics, including those of each class. ``images.csv`` lists the images
    from worst to best (``mmacmix.reporting.image_quality``). ``gallery.png`` shows input, ground truth and prediction
    of a few of the worst, middle and best images, or without ground truth of the first images. Images without objects
    are counted instead of shown. Files of a test have the prefix ``test_``. Before training, the hook describes
    network, config and machine in ``run.json``. Its first error is logged as a warning, and the run continues.

    Args:
        images: Images in the gallery, a third each of the worst, the middle and the best. Default: 12.
    """

    priority = 'LOWEST'

    def __init__(self, images: int = 12) -> None:
        self.images = images
        self._guard = Guard('results')
        self._start(None, None)

    def before_train(self, runner: Runner) -> None:
        own: dict[str, int] = {}
        with self._guard():
            own = count_parameters(runner.model)
        with self._guard():
            # Every process takes part in the collective call, even after an error.
            parts = all_gather_object(own) if isinstance(runner.model, FullyShardedDataParallel) else [own]
            if is_main_process():
                parameters = {name: sum(part[name] for part in parts) for name in own} if all(parts) else {}
                _write_run(runner, parameters, Path(runner.work_dir) / 'run.json')

    def before_val_epoch(self, runner: Runner) -> None:
        self._start(runner.val_dataloader, runner.val_evaluator)

    def before_test_epoch(self, runner: Runner) -> None:
        self._start(runner.test_dataloader, runner.test_evaluator)

    def _start(self, dataloader: DataLoader | None, evaluator: Evaluator | None) -> None:
        self._selection = Selection(self.images)
        self._evaluated = _Evaluated({}, {}, [], [])
        sources = [*getattr(evaluator, 'metrics', []), getattr(dataloader, 'dataset', None)]
        labels = (getattr(source, 'ignore_index', None) for source in sources)
        self._ignore_index = next((label for label in labels if label is not None), 255)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        with self._guard():
            for sample in outputs or []:
                self._add(sample)

    after_test_iter = after_val_iter

    def _add(self, sample: BaseDataElement) -> None:
        quality = image_quality(sample, _SCORE, self._ignore_index)
        truth = sample.get('gt_instances')
        has_truth = truth is None or 'bboxes' in truth  # MMDetection adds empty instances to images without annotations
        if has_truth and truth is not None and not len(truth):
            self._evaluated.empty[sample.img_path] = quality is not None
        elif has_truth and quality is not None:
            self._evaluated.qualities[sample.img_path] = quality
            self._selection.add(Judged(quality, _drawable(sample)))
        elif len(self._evaluated.unjudged) < self.images:
            self._evaluated.unjudged.append(_drawable(sample))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, metrics or {}, '')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, metrics or {}, 'test_')

    def _report(self, runner: Runner, metrics: dict[str, float], prefix: str) -> None:
        with self._guard():
            # Every process takes part in the collective call, even after an error.
            parts = all_gather_object(self._evaluated._replace(candidates=self._selection.candidates))
            if is_main_process():
                start = f'{runner.work_dir}/{prefix}'
                _write_metrics(metrics, Path(f'{start}results.md'))
                self._write_images(parts, runner.visualizer, Path(f'{start}images.csv'), Path(f'{start}gallery.png'))
                runner.logger.info(f'Results are in {start}results.md, pictures in {start}gallery.png')

    def _write_images(self, parts: list[_Evaluated], visualizer: Visualizer, images: Path, gallery: Path) -> None:
        qualities = {path: quality for part in parts for path, quality in part.qualities.items()}
        empty = {path: found for part in parts for path, found in part.empty.items()}
        unjudged = [Judged(None, sample) for part in parts for sample in part.unjudged if sample.keys()]
        found = [path for path in empty if empty[path]]
        listed = sorted((qualities | dict.fromkeys(found, 0.0)).items(), key=lambda item: item[1])
        if listed:
            with images.open('w', newline='') as file:
                csv.writer(file).writerows([('image', 'quality'), *((path, f'{value:.4f}') for path, value in listed)])
        shown = unjudged[: self.images]
        if qualities:
            candidates = (judged for part in parts for judged in part.candidates)
            shown = choose(candidates, statistics.median(qualities.values()), self.images)
        if shown:
            note = (
                f'{len(empty)} of {len(qualities) + len(empty)} images have no objects and are not shown; '
                f'objects were predicted in {len(found)} of them'
            )
            draw_gallery(
                [judged.sample for judged in shown],
                visualizer,
                gallery,
                score_thr=_SCORE,
                captions=[_caption(judged) for judged in shown],
                ignore_index=self._ignore_index,
                note=note if empty else '',
            )


def _write_run(runner: Runner, parameters: dict[str, int], path: Path) -> None:
    packages = ('mmacmix', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
    versions = {name: sys.modules[name].__version__ for name in packages if name in sys.modules}
    environment = dict(machine=f'{platform.machine()}, {os.cpu_count()} CPU cores', **versions, **collect_env())
    run = dict(
        config=Path(runner.cfg.filename or runner.work_dir).stem,
        processes=get_world_size(),
        batch_size=(runner.cfg.get('train_dataloader') or {}).get('batch_size'),
        settings=settings_of(runner.cfg),
        parameters=parameters,
        environment={name: str(value) for name, value in environment.items()},
    )
    path.write_text(json.dumps(run, indent=1))


def _write_metrics(metrics: dict[str, float], path: Path) -> None:
    metrics = {name: float(value) for name, value in metrics.items()}  # some are NumPy's
    path.with_suffix('.json').write_text(json.dumps(metrics, indent=1))
    table = markdown_table(['metric', 'value'], [(name, f'{value:.3f}') for name, value in metrics.items()])
    path.write_text(table if metrics else 'No metrics: the model found nothing.\n')


def _drawable(sample: BaseDataElement) -> BaseDataElement:
    """A copy on the CPU of everything that a gallery draws; logits would take most of the memory."""
    copy = type(sample)(metainfo=dict(img_path=sample.img_path))
    for name in (*INSTANCES, *MAPS):
        if name in sample:
            value = sample.get(name)
            copy.set_data({name: value[value.scores >= _SCORE] if name == 'pred_instances' else value})
    return copy.cpu()


def _caption(judged: Judged) -> str:
    name = Path(judged.sample.img_path).name
    return name if judged.quality is None else f'{name}: {judged.quality:.2f}'
