"""Which versions of MMEngine, MMCV and the host libraries this package works with."""

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from .errors import UserError

# The oldest versions that have what this package uses.
_OLDEST = {'mmengine': '0.10.0', 'mmcv': '2.0.0', 'mmdet': '3.0.0', 'mmseg': '1.0.0', 'mmpretrain': '1.0.0'}
# The first versions that have not been tested.
_UNTESTED = {'mmengine': '1.0.0', 'mmcv': '3.0.0'}
_REQUIREMENTS = {'mmcv': 'mmcv-lite==2.1.0', 'mmdet': 'mmdet==3.3.0', 'mmseg': 'mmsegmentation==1.2.2'}


def has_openmmlab() -> bool:
    """Whether MMEngine and MMCV are installed. They are not imported, so they may still be too old or broken."""
    return all(_is_installed(name) for name in _UNTESTED)


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # an import hook refuses it
        return False


@cache
def check_openmmlab() -> None:
    """Check MMEngine and MMCV.

    Raises:
        ImportError: One of them is missing, broken or too old.
    """
    for name, untested in _UNTESTED.items():  # MMEngine first
        version = check_library(name)
        from mmengine.utils import digit_version

        if digit_version(version) >= digit_version(untested):
            warnings.warn(
                f'mmacmix has not been tested with {name} {version}; {name} below {untested} is known to work.',
                stacklevel=2,
            )


def check_library(name: str) -> str:
    """Check one OpenMMLab library.

    Args:
        name: Its import name.

    Returns:
        Its version.

    Raises:
        ImportError: It is missing, broken or too old.
    """
    try:
        version = import_module(name).__version__
    except Exception as error:  # the libraries assert each other's versions
        raise ImportError(
            f'mmacmix needs {name} ({error}): run `make setup` in a checkout of mmacmix, '
            f'or `pip install {_REQUIREMENTS.get(name, name)}`.'
        ) from error
    from mmengine.utils import digit_version

    if digit_version(version) < digit_version(_OLDEST[name]):
        raise ImportError(f'mmacmix needs {name} {_OLDEST[name]} or newer, found {version}.')
    return version


def check_host(scope: str | None) -> None:
    """Check the host library that a config belongs to.

    Args:
        scope: The config's ``default_scope``; anything but a host library passes.

    Raises:
        UserError: The library is missing, broken or too old.
    """
    if scope in ('mmdet', 'mmseg', 'mmpretrain'):
        try:
            check_library(scope)
        except ImportError as error:
            raise UserError(str(error)) from error
