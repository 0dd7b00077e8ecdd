"""``python -m mmacmix.mmcv_ext`` gives the ``mmcv-lite`` of this environment its operators, without compiling any."""

import sys
from argparse import ArgumentParser
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

from ..errors import LibraryError, UserError, first_line

SOURCE = Path(__file__).with_name('operators.py')


def mmcv_folder() -> Path:
    """The folder of the installed mmcv.

    Raises:
        LibraryError: No mmcv is installed.
    """
    spec = find_spec('mmcv')
    if spec is None or spec.origin is None:  # no origin: a folder without the package's files
        raise LibraryError('mmcv is not installed: run `pip install mmcv-lite==2.1.0`, then this command again.')
    return Path(spec.origin).parent


def is_compiled(folder: Path) -> bool:
    """Whether the mmcv in this folder has compiled operators for the running Python."""
    return any((folder / f'_ext{suffix}').exists() for suffix in EXTENSION_SUFFIXES)


def torchvision_version() -> str:
    """The version of torchvision, after its operators were tried.

    Raises:
        LibraryError: torchvision is missing, or its operators do not load with this torch.
    """
    import torch

    try:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except ModuleNotFoundError as error:
        if error.name != 'torchvision':
            raise
        raise LibraryError('torchvision is not installed: install the one that belongs to your torch.') from error
    except (ImportError, OSError, RuntimeError) as error:
        raise LibraryError(
            f'The operators of torchvision do not load with torch {torch.__version__} ({first_line(error)}): install '
            'the torchvision that belongs to it, or build the operators of mmcv with `make setup MMCV=compiled`.'
        ) from error
    return torchvision.__version__


def install(folder: Path) -> str:
    """Write the operators to the mmcv in ``folder`` unless it has compiled ones; returns a sentence about the result.

    Raises:
        LibraryError: torchvision is missing, or its operators do not load with this torch.
        UserError: The file cannot be written.
    """
    if is_compiled(folder):
        return f'The mmcv in {folder} has compiled operators, which stay in use.'
    version, target = torchvision_version(), folder / '_ext.py'
    try:
        target.write_bytes(SOURCE.read_bytes())
    except OSError as error:
        raise UserError(f'The operators cannot be written to {target}: {error.strerror}.') from error
    return f'mmcv now has operators, which run on torchvision {version} and PyTorch: {target}.'


def remove(folder: Path) -> str:
    """Remove the operators that :func:`install` wrote; returns a sentence about the result."""
    target = folder / '_ext.py'
    if not target.exists():
        return f'There are no operators to remove in {folder}.'
    target.unlink()
    return f'Removed {target}.'


def main(argv: list[str] | None = None) -> None:
    """Install or remove the operators and print one line."""
    parser = ArgumentParser(prog='python -m mmacmix.mmcv_ext', description=__doc__.replace('``', ''))
    parser.add_argument('--remove', action='store_true', help='remove the operators that this command installed')
    args = parser.parse_args(argv)
    try:
        print((remove if args.remove else install)(mmcv_folder()))
    except UserError as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
