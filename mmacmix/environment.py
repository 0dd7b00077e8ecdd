"""Is the stack usable? And loading checkpoints without running what is in them."""

import warnings
from importlib import import_module
from typing import Any

import torch

# The oldest versions that have what this package uses, and the first ones that it has not been run with.
_SUPPORTED = {'mmengine': ('0.8.0', '1.0.0'), 'mmcv': ('2.0.0', '3.0.0')}


def check_environment() -> None:
    """Check MMEngine and MMCV.

    Raises:
        ImportError: One of them is missing or too old.
    """
    for name, (oldest, untried) in _SUPPORTED.items():
        try:
            version = import_module(name).__version__
        except ImportError as error:
            raise ImportError(f'mmacmix needs {name} ({error}): run `make setup` in a checkout of mmacmix, '
                              f'or `pip install {"mmengine" if name == "mmengine" else "mmcv-lite==2.1.0"}`.') from error
        from mmengine.utils import digit_version
        if digit_version(version) < digit_version(oldest):
            raise ImportError(f'mmacmix needs {name} {oldest} or newer, found {version}.')
        if digit_version(version) >= digit_version(untried):
            warnings.warn(f'mmacmix has not been run with {name} {version}; {name} below {untried} is known to work.')
