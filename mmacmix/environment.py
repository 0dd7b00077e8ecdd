"""Is the stack usable? And loading checkpoints without running what is in them."""

import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

# The oldest versions that have what this package uses.
_OLDEST = {'mmengine': '0.10.0', 'mmcv': '2.0.0', 'mmdet': '3.0.0', 'mmseg': '1.0.0', 'mmpretrain': '1.0.0'}
# The first versions that it has not been run with.
_UNTRIED = {'mmengine': '1.0.0', 'mmcv': '3.0.0'}
_PACKAGES = {'mmcv': 'mmcv-lite==2.1.0', 'mmdet': 'mmdet==3.3.0', 'mmseg': 'mmsegmentation==1.2.2'}


def check_environment() -> None:
    """Check MMEngine and MMCV.

    Raises:
        ImportError: One of them is missing or too old.
    """
    for name, untried in _UNTRIED.items():  # mmengine first
        version = check_library(name)
        from mmengine.utils import digit_version

        if digit_version(version) >= digit_version(untried):
            warnings.warn(
                f'mmacmix has not been run with {name} {version}; {name} below {untried} is known to work.',
                stacklevel=2,
            )


def check_library(name: str) -> str:
    """Check a library of OpenMMLab.

    Args:
        name: What it is imported as.

    Returns:
        Its version.

    Raises:
        ImportError: It is missing or too old, or cannot be imported.
    """
    try:
        version = import_module(name).__version__
    except Exception as error:  # the libraries assert what they need of each other
        raise ImportError(
            f'mmacmix needs {name} ({error}): run `make setup` in a checkout of mmacmix, '
            f'or `pip install {_PACKAGES.get(name, name)}`.'
        ) from error
    from mmengine.utils import digit_version

    if digit_version(version) < digit_version(_OLDEST[name]):
        raise ImportError(f'mmacmix needs {name} {_OLDEST[name]} or newer, found {version}.')
    return version


class WeightsError(ValueError):
    """A checkpoint that cannot be read, or not by what it is for; the message is one sentence."""


def allow_only_data_in_checkpoints() -> None:
    """From now on ``torch.load`` runs no code in this process, whoever calls it, and still reads MMEngine's state.

    Whatever loads a file or an address through MMEngine gets a ``WeightsError`` for one that is refused.

    Raises:
        ImportError: torch is older than 2.6 and can't be told their names.
    """
    if not allow_training_state():
        raise ImportError(f'reading checkpoints without running their code needs torch 2.6, found {torch.__version__}')
    # Read by torch.load: overrides weights_only=False wherever it is asked for.
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    from mmengine.runner.checkpoint import CheckpointLoader, load_from_http

    CheckpointLoader.register_scheme('', _in_one_sentence(_load_from_local), force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), _in_one_sentence(load_from_http), force=True)


def allow_training_state() -> bool:
    """From now on ``torch.load`` takes MMEngine's training checkpoints for data, as which it loads by default.

    They hold, beside tensors, log buffers and NumPy numbers, which ``torch.load`` refuses unless they are named. The
    hosts' inferencers and tools don't name them.

    Returns:
        Whether torch can be told: since 2.6.
    """
    if not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):  # came with names for safe globals
        return False
    torch.serialization.add_safe_globals(_training_state_types())
    return True


def _training_state_types() -> list[Any]:
    from mmengine.logging import HistoryBuffer

    dtypes = {type(np.dtype(name)) for name in ('bool', 'int32', 'int64', 'uint8', 'float16', 'float32', 'float64')}
    # NumPy's own unpickling functions. They moved between versions 1 and 2, and files of either name them.
    functions = [function.__reduce__()[0] for function in (np.zeros(1), np.float64(0))]
    named = [(f, f'numpy.{core}.multiarray.{f.__name__}') for f in functions for core in ('core', '_core')]
    # Swin's original repository, and what is built on it, saves its settings beside the weights: a kind of dictionary.
    others = [(_statistics_method, 'builtins.getattr'), (OrderedDict, 'yacs.config.CfgNode')]
    return [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *named, *others]


def _statistics_method(owner: type, name: str) -> Any:
    """What a log buffer needs of ``getattr``, and no more: its own statistics."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'Unsupported global: attribute {name!r} of {owner!r}')
    return getattr(owner, name)


def load_checkpoint(path: str | Path) -> Any:
    """Read a checkpoint onto the CPU without running code from it, now or later in this process.

    Calls ``allow_only_data_in_checkpoints``.

    Args:
        path: A file, or an address as MMEngine takes it.

    Raises:
        ImportError: torch is too old for it.
        WeightsError: The file is missing, is not a checkpoint, or holds anything but data.
    """
    allow_only_data_in_checkpoints()
    from mmengine.runner import CheckpointLoader

    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')


def _load_from_local(path: str, map_location: Any = None) -> Any:
    return torch.load(os.path.expanduser(path), map_location, weights_only=True)


def _in_one_sentence(loader: Callable[..., Any]) -> Callable[..., Any]:
    """A loader whose errors are ``WeightsError``s."""

    @wraps(loader)
    def load(path: str, map_location: Any = None) -> Any:
        try:
            return loader(path, map_location)
        except FileNotFoundError:
            raise WeightsError(f'there is no checkpoint at {path}') from None
        except Exception as error:  # of many kinds, from many places
            reason = f'{type(error).__name__} {error}'.splitlines()[0]
            if os.path.isfile(path) and not _is_written_by_torch(path):
                reason = 'it is no file that torch.save writes, or only a part of one'
            elif 'weights_only' in str(error) or 'Unsupported global' in str(error):
                reason = 'it holds Python objects, which could run code, beside its tensors'
            raise WeightsError(f'{path} cannot be read as a checkpoint: {reason}') from error

    return load


def _is_written_by_torch(path: str | Path) -> bool:
    """Whether it is a zip file or, as in older days, a pickle."""
    with open(path, 'rb') as file:
        return file.read(1) == b'\x80' or zipfile.is_zipfile(path)


def state_dict_of(checkpoint: Any, path: str | Path = 'the checkpoint') -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint, whichever way it is wrapped: bare, or under ``state_dict`` or ``model``.

    A leading ``module.``, as ``DistributedDataParallel`` leaves it, is taken off the names.

    Raises:
        WeightsError: There is no state dict in it.
    """
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    if (
        not isinstance(checkpoint, dict)
        or not checkpoint
        or not all(isinstance(value, torch.Tensor) for value in checkpoint.values())
    ):
        raise WeightsError(
            f'{path} holds no state dict: expected names and tensors, bare or under "state_dict" or "model"'
        )
    return {name.removeprefix('module.'): tensor for name, tensor in checkpoint.items()}
