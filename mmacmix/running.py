"""What the training and testing tools share: configs, checks before long work, and errors in one sentence."""

import inspect
import logging
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from torch.utils.data import DataLoader

from .backbones.pretrained import WeightsError
from .datasets import check_maps, checked_annotations, checked_items
from .environment import allow_only_data_in_checkpoints, load_checkpoint, state_dict_of
from .errors import UserError
from .reporting import PathWeightsHook, ResultsHook
from .training import FiniteHook, RandomStateHook, latest_checkpoint

# How to get a data set, by the folder that the configs of this package look for it in.
_SOURCES = {
    'ADEChallengeData2016': 'get ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu and unpack it there',
    'coco': 'get COCO 2017 from https://cocodataset.org and unpack train2017, val2017 and annotations there',
    'shapes': 'write it with `python tools/make_shapes.py data/shapes`',
}


# Top-level settings that something reads, beside the arguments of MMEngine's Runner.
_SETTINGS = {
    'auto_scale_lr',
    'custom_imports',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}


def add_config_arguments(parser: ArgumentParser, optional: bool = False) -> None:
    """A config and what overrides it.

    Args:
        parser: The parser to add them to.
        optional: The tool can do without a config. Default: False.
    """
    parser.add_argument('config', nargs='?' if optional else None, help='config file, or package::path')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        metavar='KEY=VALUE',
        help='settings that override the config, such as model.backbone.depth=26 "key=[a,b]"',
    )


def add_common_arguments(parser: ArgumentParser) -> None:
    """The options that training and testing share."""
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help='where logs, checkpoints and results go; default: work_dirs/<config>')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun passes it to scripts in one spelling or the other.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


class _Options(DictAction):
    """MMEngine's KEY=VALUE parser, with argparse's message for an argument that is none."""

    def __call__(self, parser, namespace, values, option_string=None):
        bad = [value for value in values if '=' not in value]
        if bad:
            parser.error(f'{option_string} takes KEY=VALUE, got {bad[0]!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception as error:  # of many kinds, from many places
            parser.error(f'{option_string} cannot be read: {_first_line(error)}')


def load_config(args: Namespace) -> Config:
    """The config of the command line, with its overrides, and for running it a launcher and a work directory.

    Raises:
        UserError: The file is missing or can't be read, or an override does not fit or means nothing.
    """
    path = _path_of(args.config)
    if not os.path.isfile(path):
        raise UserError(f'there is no config at {path}')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        raise UserError(f'{args.config} cannot be read: {_first_line(error)}') from error
    _drop_own_scope(cfg._cfg_dict)
    options = args.cfg_options or {}
    cfg.new_options = [key for key in options if not _has(cfg, key)]
    known = {*_SETTINGS, *inspect.signature(Runner).parameters}
    unread = [key for key in options if key.split('.')[0] not in known]
    if unread:
        why = 'has made other settings of it already' if unread[0].split('.')[0] in cfg else 'does not set it'
        raise UserError(f'--cfg-options: nothing reads {unread[0]}, and {args.config} {why}')
    try:
        cfg.merge_from_dict(options)
    except Exception as error:
        raise UserError(f'--cfg-options do not fit {args.config}: {_first_line(error)}') from error
    if 'launcher' in args:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(args.config).stem)
    return cfg


def _drop_own_scope(settings: Any) -> None:
    """MMEngine marks what comes from a base `mmacmix::...` as of that scope; the names in it are those of the hosts."""
    if isinstance(settings, dict):
        if settings.get('_scope_') == 'mmacmix':
            del settings['_scope_']
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for each in settings:
            _drop_own_scope(each)


def load_configs(paths: Sequence[str], options: Sequence[str]) -> dict[str, Config]:
    """Several configs by their names in a table, those of their files, all with the same overrides.

    Raises:
        UserError: One cannot be loaded, or two have the same name.
    """
    if len({Path(path).stem for path in paths}) < len(paths):
        raise UserError('two of the configs have the same file name, which is their name in the table')
    parser = ArgumentParser()
    add_config_arguments(parser)
    overrides = ['--cfg-options', *options] if options else []
    return {Path(path).stem: load_config(parser.parse_args([path, *overrides])) for path in paths}


def _path_of(config: str) -> str:
    """A config's file, which may be given as ``package::path``. MMEngine would install a package that is missing."""
    package, inside, path = config.partition('::')
    if not inside:
        return config
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise UserError(f'{config} is a config of {package}, which is not installed')
    return str(Path(spec.origin).with_name('.mim') / 'configs' / path)


def build_model(cfg: Config) -> torch.nn.Module:
    """The config's network, with weights as they start, none of them downloaded.

    Raises:
        UserError: The config does not describe one.
    """
    try:
        import_modules_from_strings(**cfg.get('custom_imports', dict(imports=[])))
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        return MODELS.build(cfg.model)
    except Exception as error:
        raise UserError(f'{cfg.filename} cannot be built: {_first_line(error)}') from error


def resume(cfg: Config) -> None:
    """Let a training go on from ``load_from``, or else from the latest checkpoint of its work directory, if any.

    With the seed that it had, unless the config sets one: data sets are shuffled from it.
    """
    cfg.load_from = cfg.get('load_from') or latest_checkpoint(cfg.work_dir)
    cfg.resume = cfg.load_from is not None
    if not cfg.resume or '://' in cfg.load_from:
        return
    try:
        saved = load_checkpoint(cfg.load_from)
    except ValueError as error:
        raise UserError(str(error)) from error
    randomness = cfg.get('randomness') or {}
    if isinstance(saved, dict) and randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=saved.get('meta', {}).get('seed'))


def build_runner(cfg: Config, dataloaders: Sequence[str]) -> Runner:
    """A runner that has what it needs.

    Args:
        cfg: The config.
        dataloaders: Keys of the dataloaders that will be used.

    Raises:
        UserError: Data is missing, or the config does not describe something that can be built.
    """
    try:
        allow_only_data_in_checkpoints()
    except ImportError as error:
        raise UserError(str(error)) from error
    new_options = cfg.pop('new_options', [])
    check_data(cfg, dataloaders)
    if 'train_dataloader' in dataloaders:
        _write_whole_checkpoints(cfg)
    if cfg.launcher == 'pytorch' and not torch.cuda.is_available():
        _start_cpu_processes(cfg)
    try:
        runner = CheckedRunner.from_cfg(cfg)
        for name in dataloaders:
            getattr(runner, name.replace('dataloader', 'loop'))
        if 'train_dataloader' in dataloaders:
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    except UserError:
        raise
    except Exception as error:
        hint = f' (the config had no {", ".join(new_options)} before --cfg-options)' if new_options else ''
        raise UserError(f'{cfg.filename} cannot be built{hint}: {_first_line(error)}') from error
    runner.register_hook(ResultsHook())
    runner.register_hook(RandomStateHook())
    runner.register_hook(FiniteHook())
    if not any(isinstance(hook, PathWeightsHook) for hook in runner.hooks):
        runner.register_hook(PathWeightsHook())
    return runner


class CheckedRunner(Runner):
    """MMEngine's, which checks data sets as it builds them: before the dataloader's workers start."""

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *arguments: Any, **named: Any) -> DataLoader:
        for dataset in _datasets(dataloader.get('dataset') if isinstance(dataloader, dict) else None):
            check_maps(dataset)
        with checked_annotations():
            built = Runner.build_dataloader(dataloader, *arguments, **named)
        checked_items(built.dataset)
        return built


def _write_whole_checkpoints(cfg: Config) -> None:
    if 'checkpoint' not in cfg.get('default_hooks', {}):
        cfg.merge_from_dict({'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1)})  # the Runner's own
    hook = cfg.default_hooks.checkpoint
    if hook and hook.get('type') == 'CheckpointHook':
        hook.type = 'AtomicCheckpointHook'


def _start_cpu_processes(cfg: Config) -> None:
    """What MMEngine's own start of several processes takes a GPU for."""
    torch.distributed.init_process_group('gloo')
    cfg.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        ),
    )
    cfg.sync_bn = None  # torch synchronises batch normalisation on GPUs alone


def check_data(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Raise ``UserError`` where a dataset's files or folders are missing."""
    for name in dataloaders:
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
    """Check that a local checkpoint fits a model.

    Args:
        path: The checkpoint. One with a URL is not looked at.
        model: The model; what wraps it for several processes or for test-time augmentation does not count.
        whole: Key by key and shape by shape. Otherwise it is a start for training, of which a part, such as a head
            for other classes, may be left out with a warning. Default: True.

    Raises:
        UserError: It does not fit, or is no checkpoint.
    """
    if '://' in path:
        return
    model = unwrapped(model)
    try:
        saved = state_dict_of(load_checkpoint(path), path)
    except ValueError as error:
        raise UserError(str(error)) from error
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


def run(main: Callable[[list[str] | None], None]) -> None:
    """Run a tool's ``main``; a mistake of the user's ends it with one sentence and status 1."""
    try:
        main(None)
    except (UserError, WeightsError, OSError) as error:  # files that can't be read or written
        sys.exit(f'{Path(sys.argv[0]).name}: {error}')


def _has(cfg: Config, key: str) -> bool:
    node = cfg
    for part in key.split('.'):
        if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif (isinstance(node, dict) and part in node) or (isinstance(node, Config) and part in node):
            node = node[part]
        else:
            return False
    return True


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
