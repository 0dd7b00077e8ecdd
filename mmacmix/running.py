"""What the training and testing tools share: configs, checks before long work, and errors in one sentence."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from .environment import allow_only_data_in_checkpoints, load_checkpoint, state_dict_of
from .reporting import ResultsHook

# How to get a data set, by the folder that the configs of this package look for it in.
_SOURCES = {
    'coco': 'get COCO 2017 from https://cocodataset.org and unpack train2017, val2017 and annotations there',
    'shapes': 'write it with `python tools/make_shapes.py data/shapes`',
}


class UserError(Exception):
    """Something the user can mend; the message is one sentence."""


def add_common_arguments(parser: ArgumentParser) -> None:
    """The options that training and testing share."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs, checkpoints and results go; default: work_dirs/<config>')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        metavar='KEY=VALUE',
        help='settings that override the config, such as model.backbone.depth=26 "key=[a,b]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun passes it to scripts in one spelling or the other.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


class _Options(DictAction):
    """MMEngine's KEY=VALUE parser, with argparse's message for an argument that is none."""

    def __call__(self, parser, namespace, values, option_string=None):
        bad = [value for value in values if '=' not in value]
        if bad:
            parser.error(f'{option_string} takes KEY=VALUE, got {bad[0]!r}')
        super().__call__(parser, namespace, values, option_string)


def load_config(args: Namespace) -> Config:
    """The config of the command line, with its overrides, launcher and work directory.

    Raises:
        UserError: The file is missing or can't be read, or an override does not fit.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not os.path.isfile(args.config):
        raise UserError(f'there is no config at {args.config}')
    try:
        cfg = Config.fromfile(args.config)
    except Exception as error:
        raise UserError(f'{args.config} cannot be read: {_first_line(error)}') from error
    cfg.launcher = args.launcher
    options = args.cfg_options or {}
    cfg.new_options = [key for key in options if not _has(cfg, key)]
    try:
        cfg.merge_from_dict(options)
    except Exception as error:
        raise UserError(f'--cfg-options do not fit {args.config}: {_first_line(error)}') from error
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(args.config).stem)
    return cfg


def build_runner(cfg: Config, dataloaders: Sequence[str]) -> Runner:
    """A runner that has what it needs.

    Args:
        cfg: The config.
        dataloaders: Keys of the dataloaders that will be used.

    Raises:
        UserError: Data is missing, or the config does not describe something that can be built.
    """
    allow_only_data_in_checkpoints()
    new_options = cfg.pop('new_options', [])
    check_data(cfg, dataloaders)
    if cfg.launcher == 'pytorch' and not torch.cuda.is_available():
        _start_cpu_processes(cfg)
    try:
        runner = Runner.from_cfg(cfg)
        for name in dataloaders:
            getattr(runner, name.replace('dataloader', 'loop'))
    except Exception as error:
        hint = f' (the config had no {", ".join(new_options)} before --cfg-options)' if new_options else ''
        raise UserError(f'{cfg.filename} cannot be built{hint}: {_first_line(error)}') from error
    runner.register_hook(ResultsHook())
    return runner


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
                        f'or name another place with --cfg-options {name}.dataset.data_root=...'
                    )


def _datasets(dataset: dict | None) -> Iterator[dict]:
    """The data sets inside wrappers."""
    if not dataset:
        return
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for one in inner:
        yield from _datasets(one)


def check_checkpoint(path: str, model: torch.nn.Module) -> None:
    """Raise ``UserError`` unless a local checkpoint fits the model, key by key and shape by shape."""
    if '://' in path:
        return
    try:
        saved = state_dict_of(load_checkpoint(path), path)
    except ValueError as error:
        raise UserError(str(error)) from error
    wanted = model.state_dict()
    problems = [
        f'{what} {", ".join(names[:3])}{" and more" if len(names) > 3 else ""}'
        for what, names in (
            ('it lacks', [name for name in wanted if name not in saved]),
            ('the model lacks', [name for name in saved if name not in wanted]),
            (
                'shapes differ for',
                [name for name in wanted if name in saved and wanted[name].shape != saved[name].shape],
            ),
        )
        if names
    ]
    if problems:
        raise UserError(f'{path} is a checkpoint of another model: {"; ".join(problems)}')


def run(main: Callable[[list[str] | None], None]) -> None:
    """Run a tool's ``main``; a mistake of the user's ends it with one sentence and status 1."""
    try:
        main(None)
    except UserError as error:
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
