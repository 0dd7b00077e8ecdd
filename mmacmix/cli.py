"""What the tools share: arguments, configs, safe loading of checkpoints, and one-sentence errors."""

import inspect
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

from .engine.loading import read_only_data
from .engine.processes import nested_dicts
from .errors import UserError, first_line

# Top-level settings that are read, besides the arguments of MMEngine's Runner.
_SETTINGS = {
    'activation_checkpointing',
    'auto_scale_lr',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}


def add_config_arguments(parser: ArgumentParser, optional: bool = False) -> None:
    """Add the config, which may be ``optional``, and the options that override its settings."""
    parser.add_argument('config', nargs='?' if optional else None, help='config file, or package::path')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        metavar='KEY=VALUE',
        help='settings that override the config, such as model.backbone.depth=26 "key=[a,b]"',
    )


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that training and testing share."""
    add_config_arguments(parser)
    parser.add_argument(
        '--work-dir',
        help='folder for logs, checkpoints and results; default: work_dir of the config, or work_dirs/<config>',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='default: none, one process'
    )
    # torchrun passes either spelling, depending on its version.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torchrun')


def positive_int(text: str) -> int:
    """A positive integer, as an argparse type."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f'must be positive, got {number}')
    return number


def png_file(text: str) -> Path:
    """The path of a PNG, as an argparse type."""
    if not text.endswith('.png'):
        raise ArgumentTypeError(f'must be a .png file, got {text}')
    return Path(text)


class _Options(DictAction):
    """MMEngine's KEY=VALUE parser, ending with argparse's message if an argument cannot be parsed."""

    def __call__(self, parser, namespace, values, option_string=None):
        bad = [value for value in values if '=' not in value]
        if bad:
            parser.error(f'{option_string} takes KEY=VALUE, got {bad[0]!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception as error:  # MMEngine raises many types
            parser.error(f'{option_string} cannot be read: {first_line(error)}')


def load_config(args: Namespace) -> Config:
    """Load the config of a command line, with its overrides, launcher and work directory.

    Raises:
        UserError: The file is missing or cannot be read, or an override does not fit or would have no effect.
    """
    path = _path_of(args.config)
    if not os.path.isfile(path):
        raise UserError(f'there is no config at {path}')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        raise UserError(f'{args.config} cannot be read: {first_line(error)}') from error
    for settings in nested_dicts(cfg._cfg_dict):
        # Added by MMEngine to what comes from a base `mmacmix::...`; the names in it are in the host's scope.
        if settings.get('_scope_') == 'mmacmix':
            del settings['_scope_']
    options = args.cfg_options or {}
    cfg.new_options = [key for key in options if not _has(cfg, key)]
    known = {*_SETTINGS, *inspect.signature(Runner).parameters}
    for key in options:
        name = key.split('.')[0]
        if name not in known:
            reason = 'uses it only to compute other settings' if name in cfg else 'does not set it'
            raise UserError(f'--cfg-options: nothing reads {key}, and {args.config} {reason}')
    try:
        cfg.merge_from_dict(options)
    except Exception as error:
        raise UserError(f'--cfg-options do not fit {args.config}: {first_line(error)}') from error
    if 'launcher' in args:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(args.config).stem)
    return cfg


def load_configs(paths: Sequence[str], options: Sequence[str]) -> dict[str, Config]:
    """Load several configs with the same overrides; the keys are the names of their files.

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
    """The file of a config, which may be given as ``package::path``; MMEngine would install a missing package."""
    package, separator, path = config.partition('::')
    if not separator:
        return config
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise UserError(f'{config} is a config of {package}, which is not installed')
    return str(Path(spec.origin).with_name('.mim') / 'configs' / path)


def _has(cfg: Config, key: str) -> bool:
    node = cfg._cfg_dict
    try:
        for part in key.split('.'):
            node = node[int(part) if isinstance(node, (list, tuple)) else part]
    except (KeyError, IndexError, TypeError, ValueError):
        return False
    return True


def command_line(main: Callable[[list[str] | None], None]) -> Callable[..., None]:
    """Make a tool's ``main`` load every checkpoint in this process as data, whichever library loads it.

    MMEngine's training checkpoints are loaded; a checkpoint that holds code is refused with a ``WeightsError``.
    """

    @wraps(main)
    def main_with_safe_loading(argv: list[str] | None = None) -> None:
        read_only_data()
        main(argv)

    return main_with_safe_loading


def run(main: Callable[[list[str] | None], None]) -> None:
    """Run a tool's ``main``; a user's mistake or an unusable file ends the process with one sentence and status 1."""
    try:
        record(main)(None)  # reports errors to tools/launch.py, if it started this process
    except (UserError, OSError) as error:
        sys.exit(f'{Path(sys.argv[0]).name}: {error}')
