"""MMEngine's runners with what this package adds: checks before long work, atomic checkpoints, records of the run."""

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
from .loading import DataOnlyHook, LoadingHook
from .plain_state_hook import PlainStateHook
from .processes import prepare_processes
from .random_state_hook import RandomStateHook

# How to get a data set, by the folder that the configs of this package look for it in.
_SOURCES = {
    'ADEChallengeData2016': 'get ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu and unpack it there',
    'coco': 'get COCO 2017 from https://cocodataset.org and unpack train2017, val2017 and annotations there',
    'shapes': 'write it with `python tools/make_shapes.py data/shapes`',
}


def build_runner(cfg: Config, dataloaders: Sequence[str]) -> Runner:
    """Build a runner whose data, model and checkpoint are known to be usable.

    Args:
        cfg: The config.
        dataloaders: Keys of the dataloaders that will be used.

    Raises:
        UserError: Data is missing, or the config does not describe something that can be built.
    """
    new_options = cfg.pop('new_options', [])
    check_host(cfg.get('default_scope'))
    check_data(cfg, dataloaders)
    training = 'train_dataloader' in dataloaders
    if training:
        _write_atomic_checkpoints(cfg)
    else:
        for name in ('runner_type', 'strategy'):  # FSDP is for training; its checkpoints are ordinary ones
            cfg.pop(name, None)
    prepare_processes(cfg)
    _report_classes(cfg)
    try:
        runner = checked_runner(RUNNERS.get(cfg.get('runner_type', 'Runner'))).from_cfg(cfg)
        loops = [getattr(runner, name.replace('dataloader', 'loop')) for name in dataloaders]
        if isinstance(runner, FlexibleRunner):  # builds them when it runs, too late to end with a sentence
            runner.model = runner.strategy.build_model(runner.model)
            runner.strategy.build_optim_wrapper(runner.optim_wrapper, runner.model)
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
    runner.register_hook(LoadingHook(cfg.get('load_from'), partial=training and not cfg.get('resume')))
    for hook in (DataOnlyHook, PlainStateHook, ResultsHook, RandomStateHook, FiniteHook, PathWeightsHook):
        if not any(isinstance(each, hook) for each in runner.hooks):  # the config may have one of its own
            runner.register_hook(hook())
    return runner


def checked_runner(runner_type: type[Runner] | type[FlexibleRunner]) -> type:
    """Make a runner class that checks data sets as it builds them, before the dataloader's workers start."""

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


def _report_classes(cfg: Config) -> None:
    """Let MMSegmentation's metric return the IoU of each class, too."""
    for name in ('val_evaluator', 'test_evaluator'):
        evaluators = cfg.get(name) or []
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            if evaluator.get('type') == 'IoUMetric':
                evaluator['type'] = 'ClassIoUMetric'
                cfg.setdefault('custom_imports', dict(imports=[], allow_failed_imports=False))
                imports = [*cfg.custom_imports['imports'], 'mmacmix.reporting.class_iou']
                cfg.custom_imports['imports'] = list(dict.fromkeys(imports))
                import_modules_from_strings(**cfg.custom_imports)


def _write_atomic_checkpoints(cfg: Config) -> None:
    if 'checkpoint' not in cfg.get('default_hooks', {}):
        cfg.merge_from_dict(
            {'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1)}
        )  # the Runner's default
    hook = cfg.default_hooks.checkpoint
    if hook and hook.get('type') == 'CheckpointHook':
        hook.type = 'AtomicCheckpointHook'


def check_data(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Check that the files and folders of a config's data sets exist.

    A data set whose predictions are evaluated against another annotation file gets a warning.

    Args:
        cfg: The config.
        dataloaders: Keys of the dataloaders that will be used.

    Raises:
        UserError: Files or folders are missing or empty.
    """
    for name in dataloaders:
        evaluators = cfg.get(name.replace('dataloader', 'evaluator')) or []
        truths = [each.get('ann_file') for each in (evaluators if isinstance(evaluators, list) else [evaluators])]
        for dataset in innermost((cfg.get(name) or {}).get('dataset')):
            root = dataset.get('data_root') or ''
            paths = [dataset.get('ann_file'), *(dataset.get('data_prefix') or {}).values()]
            for path in (os.path.join(root, path) for path in paths if path):
                if '://' not in path and not os.path.exists(path):
                    raise UserError(
                        f'{name} looks for {path} in {os.getcwd()} and it is not there: '
                        f'{_SOURCES.get(Path(root).name, "get the data set")}, '
                        f'or make {root or path} a link to where you have it'
                    )
                if os.path.isdir(path) and not any(os.scandir(path)):
                    raise UserError(f'{name} looks for images or maps in {path} and it is empty')
            own = os.path.join(root, dataset.get('ann_file') or '')
            for truth in filter(None, truths):
                if os.path.isfile(own) and os.path.isfile(truth) and not os.path.samefile(own, truth):
                    note = f'{name} reads {own} and its results are compared with {truth}: are they of the same images?'
                    print_log(note, 'current', logging.WARNING)
