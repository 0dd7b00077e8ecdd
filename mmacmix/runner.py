"""MMEngine's runners with what this package adds: checks before long work, whole checkpoints, records of the run."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

from .datasets import check_maps, checked_annotations, checked_items
from .environment import load_checkpoint, state_dict_of
from .errors import UserError
from .ops import is_integer
from .processes import prepare_processes
from .reporting import PathWeightsHook, ResultsHook
from .running import allow_only_data, check_host, first_line
from .training import DataOnlyHook, FiniteHook, RandomStateHook, latest_checkpoint

# How to get a data set, by the folder that the configs of this package look for it in.
_SOURCES = {
    'ADEChallengeData2016': 'get ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu and unpack it there',
    'coco': 'get COCO 2017 from https://cocodataset.org and unpack train2017, val2017 and annotations there',
    'shapes': 'write it with `python tools/make_shapes.py data/shapes`',
}


def resume(cfg: Config) -> None:
    """Let a training go on from ``load_from``, or else from the latest checkpoint of its work directory, if any.

    With the seed that it had, unless the config sets one: data sets are shuffled from it.

    Raises:
        UserError: It cannot be read, holds weights alone, or is not of FSDP, which resumes its own alone.
    """
    cfg.load_from = cfg.get('load_from') or latest_checkpoint(cfg.work_dir)
    cfg.resume = cfg.load_from is not None
    if not cfg.resume:
        return
    try:
        saved = load_checkpoint(cfg.load_from)
    except ValueError as error:
        raise UserError(str(error)) from error
    meta = saved.get('meta') if isinstance(saved, dict) and 'message_hub' in saved else None
    places = [meta.get(key) for key in ('epoch', 'iter')] if isinstance(meta, dict) else [None]
    if not all(is_integer(place) and place >= 0 for place in places):
        raise UserError(f'{cfg.load_from} holds weights and no training to go on from: load_from starts from weights')
    if cfg.get('strategy', {}).get('type') == 'ShardedStrategy' and not _has_named_state(saved):
        raise UserError(f'{cfg.load_from} was not written by FSDP, which resumes its own: start from it as load_from')
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=meta.get('seed'))


def _has_named_state(saved: dict[str, Any]) -> bool:
    """Whether the optimizer's state in a checkpoint is by names of parameters, not by their numbers."""
    groups = saved.get('optimizer', {}).get('param_groups', [])
    return bool(groups) and all(isinstance(name, str) for group in groups for name in group['params'])


def build_runner(cfg: Config, dataloaders: Sequence[str]) -> Runner:
    """A runner that has what it needs.

    Args:
        cfg: The config.
        dataloaders: Keys of the dataloaders that will be used.

    Raises:
        UserError: Data is missing, or the config does not describe something that can be built.
    """
    allow_only_data()
    new_options = cfg.pop('new_options', [])
    check_host(cfg)
    check_data(cfg, dataloaders)
    if 'train_dataloader' in dataloaders:
        _write_whole_checkpoints(cfg)
    else:
        for name in ('runner_type', 'strategy'):  # those of FSDP are for training: its checkpoints are ordinary ones
            cfg.pop(name, None)
    try:
        prepare_processes(cfg)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        runner = checked_runner(RUNNERS.get(cfg.get('runner_type', 'Runner'))).from_cfg(cfg)
        for name in dataloaders:
            getattr(runner, name.replace('dataloader', 'loop'))
        if isinstance(runner, FlexibleRunner):  # builds them when it runs: too late for a sentence
            runner.model = runner.strategy.build_model(runner.model)
            runner.strategy.build_optim_wrapper(runner.optim_wrapper, runner.model)
        elif 'train_dataloader' in dataloaders:
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    except UserError:
        raise
    except Exception as error:
        hint = f' (the config had no {", ".join(new_options)} before --cfg-options)' if new_options else ''
        raise UserError(f'{cfg.filename} cannot be built{hint}: {first_line(error)}') from error
    runner.register_hook(ResultsHook())
    runner.register_hook(RandomStateHook())
    runner.register_hook(DataOnlyHook())
    runner.register_hook(FiniteHook())
    if not any(isinstance(hook, PathWeightsHook) for hook in runner.hooks):
        runner.register_hook(PathWeightsHook())
    return runner


def checked_runner(runner_type: type[Runner] | type[FlexibleRunner]) -> type:
    """MMEngine's runner, which checks data sets as it builds them: before the dataloader's workers start."""

    class CheckedRunner(runner_type):
        @staticmethod
        def build_dataloader(dataloader: DataLoader | dict, *arguments: Any, **named: Any) -> DataLoader:
            for dataset in _datasets(dataloader.get('dataset') if isinstance(dataloader, dict) else None):
                check_maps(dataset)
            with checked_annotations():
                built = runner_type.build_dataloader(dataloader, *arguments, **named)
            checked_items(built.dataset)
            return built

    return CheckedRunner


def _write_whole_checkpoints(cfg: Config) -> None:
    if 'checkpoint' not in cfg.get('default_hooks', {}):
        cfg.merge_from_dict({'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1)})  # the Runner's own
    hook = cfg.default_hooks.checkpoint
    if hook and hook.get('type') == 'CheckpointHook':
        hook.type = 'AtomicCheckpointHook'


def check_data(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Raise ``UserError`` where a dataset's files or folders are missing; warn where it is measured by another file."""
    for name in dataloaders:
        evaluators = cfg.get(name.replace('dataloader', 'evaluator')) or []
        truths = [each.get('ann_file') for each in (evaluators if isinstance(evaluators, list) else [evaluators])]
        for dataset in _datasets((cfg.get(name) or {}).get('dataset')):
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


def _datasets(dataset: dict | None) -> Iterator[dict]:
    """The data sets inside wrappers."""
    if not dataset:
        return
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for one in inner:
        yield from _datasets(one)


def check_checkpoint(path: str, model: torch.nn.Module, whole: bool = True) -> None:
    """Check that a checkpoint fits a model.

    Args:
        path: The checkpoint.
        model: The model; what wraps it for several processes or for test-time augmentation does not count.
        whole: Key by key and shape by shape. Otherwise it is a start for training, of which a part, such as a head
            for other classes, may be left out with a warning. Default: True.

    Raises:
        UserError: It does not fit, or is no checkpoint.
    """
    model = unwrapped(model)
    try:
        checkpoint = load_checkpoint(path)
        saved = state_dict_of(checkpoint, path)
    except ValueError as error:
        raise UserError(str(error)) from error
    if 'state_dict' not in checkpoint and isinstance(checkpoint.get('model'), dict):
        raise UserError(f'{path} has weights under "model", and MMEngine looks for them under "state_dict"')
    unsound = [name for name, tensor in saved.items() if not _is_sound(tensor)]
    if unsound:
        raise UserError(f'{path} has weights that are no finite numbers, {len(unsound)} of them: {unsound[0]}')
    fitted, wanted = _fitted(saved, model), model.state_dict()
    problems = [
        f'{what} {", ".join(names[:3])}{" and more" if len(names) > 3 else ""}'
        for what, names in (
            ('it lacks', [name for name in wanted if name not in fitted]),
            ('the model lacks', [name for name in fitted if name not in wanted]),
            (
                'shapes differ for',
                [name for name in wanted if name in fitted and wanted[name].shape != fitted[name].shape],
            ),
        )
        if names
    ]
    if not problems:
        return
    fits = any(name in fitted and wanted[name].shape == fitted[name].shape for name in wanted)
    if whole or not fits:
        raise UserError(f'{path} is a checkpoint of another model: {"; ".join(problems)}')
    print_log(f'{path} fits the model in part: {"; ".join(problems)}', 'current', logging.WARNING)


def _is_sound(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta and bool(tensor.isfinite().all())


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """A model without what wraps it for several processes or for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _fitted(saved: dict[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state dict as the model's own modules adapt it when they load it: tables of other windows, for instance."""
    saved = dict(saved)
    for name, module in model.named_modules():
        for hook in module._load_state_dict_pre_hooks.values():
            hook(saved, f'{name}.' if name else '', {}, True, [], [], [])
    return saved
