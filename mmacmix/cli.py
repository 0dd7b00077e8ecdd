"""What the tools share: arguments, configs, reading checkpoints as data alone, and errors in one sentence."""

import inspect
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import CheckpointLoader, Runner
from torch.distributed.elastic.multiprocessing.errors import record

from .checkpoints import allow_training_state
from .engine import load_once
from .errors import UserError, first_line

# Top-level settings that something reads, beside the arguments of MMEngine's Runner.
_SETTINGS = {
    'auto_scale_lr',
    'custom_imports',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
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
            parser.error(f'{option_string} cannot be read: {first_line(error)}')


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
        raise UserError(f'{args.config} cannot be read: {first_line(error)}') from error
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
        raise UserError(f'--cfg-options do not fit {args.config}: {first_line(error)}') from error
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


def command_line(main: Callable[[list[str] | None], None]) -> Callable[..., None]:
    """Make a tool's ``main`` read checkpoints as data alone, whoever reads them in this process.

    A checkpoint that holds code is refused with a ``WeightsError``, and MMEngine's training checkpoints are read.
    """

    @wraps(main)
    def switched(argv: list[str] | None = None) -> None:
        _read_data_alone()
        main(argv)

    return switched


def _read_data_alone() -> None:
    try:
        allow_training_state()
    except ImportError as error:
        raise UserError(str(error)) from error
    # Read by torch.load: overrides weights_only=False wherever it is passed.
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    CheckpointLoader.register_scheme(('', 'http://', 'https://'), load_once, force=True)


def run(main: Callable[[list[str] | None], None]) -> None:
    """Run a tool's ``main``; a mistake of the user's ends it with one sentence and status 1."""
    try:
        record(main)(None)  # tells tools/launch.py, which may have started this process, what went wrong
    except (UserError, OSError) as error:  # OSError: files that cannot be read or written
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
