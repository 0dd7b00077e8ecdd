"""Checks the versions of MMEngine, MMCV, the host libraries and those that integrations use."""

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from .errors import LibraryError

_OLDEST = {'mmengine': '0.10.0', 'mmcv': '2.0.0', 'mmdet': '3.0.0', 'mmseg': '1.0.0', 'mmpretrain': '1.0.0'}
_OLDEST |= {'timm': '0.9.2', 'huggingface_hub': '0.24.0', 'ultralytics': '8.3.0'}
_FIRST_UNTESTED = {'mmengine': '1.0.0', 'mmcv': '3.0.0'}
_REQUIREMENTS = {'mmcv': 'mmcv-lite==2.1.0', 'mmdet': 'mmdet==3.3.0', 'mmseg': 'mmsegmentation==1.2.2'}
_REQUIREMENTS |= {'huggingface_hub': 'huggingface_hub safetensors'}


def has_openmmlab() -> bool:
    """Whether MMEngine and MMCV are installed; they are not imported, so they may be broken or too old."""
    try:
        return all(find_spec(name) is not None for name in _FIRST_UNTESTED)
    except (ImportError, ValueError):  # refused by an import hook
        return False


@cache
def check_openmmlab() -> None:
    """Check MMEngine and MMCV, with a warning if one is newer than the tested versions.

    Raises:
        LibraryError: One of them is missing, broken or too old.
    """
    for name, untested in _FIRST_UNTESTED.items():  # MMEngine first
        version = check_library(name)
        from mmengine.utils import digit_version

        if digit_version(version) >= digit_version(untested):
            warnings.warn(
                f'mmacmix has not been tested with {name} {version}; {name} below {untested} is known to work.',
                stacklevel=2,
            )


def check_library(name: str) -> str:
    """Check the library with this import name, and return its version.

    Raises:
        LibraryError: It is missing, broken or too old.
    """
    try:
        version = import_module(name).__version__
    except Exception as error:  # the libraries assert each other's versions
        raise LibraryError(
            f'mmacmix needs {name} ({error}): run `make setup` in a checkout of mmacmix, '
            f'or `pip install {_REQUIREMENTS.get(name, name)}`.'
        ) from error
    from mmengine.utils import digit_version

    if digit_version(version) < digit_version(_OLDEST[name]):
        raise LibraryError(f'mmacmix needs {name} {_OLDEST[name]} or newer, found {version}.')
    return version


def check_host(scope: str | None) -> None:
    """Check the host library that a config names as its ``default_scope``; any other scope passes.

    Raises:
        LibraryError: The library is missing, broken or too old.
    """
    if scope in ('mmdet', 'mmseg', 'mmpretrain'):
        check_library(scope)
