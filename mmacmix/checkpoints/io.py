"""Reading checkpoints as data: code in a file never runs, and nothing changes for the rest of the process."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, first_line


class WeightsError(UserError):
    """A checkpoint cannot be read, or does not fit; the message is one sentence."""


def load_checkpoint(path: str | Path, map_location: Any = 'cpu') -> Any:
    """Read a checkpoint without running code from it.

    MMEngine's training checkpoints are read, too, although they hold more than tensors.

    Args:
        path: A file, an ``http(s)://`` address (downloaded once into torch's cache), or any other address that
            ``mmengine.fileio`` reads.
        map_location: As ``torch.load`` takes it. Default: ``'cpu'``.

    Raises:
        ImportError: torch is older than 2.6.
        WeightsError: The file is missing, is not a checkpoint, or holds anything but data.
    """
    path = str(path)
    try:
        with _training_state_allowed():
            return _load(path, map_location)
    except FileNotFoundError:
        raise WeightsError(f'there is no checkpoint at {path}') from None
    except Exception as error:  # of many kinds, from many places
        reason = f'{type(error).__name__} {first_line(error)}'
        if os.path.isfile(path) and not _is_written_by_torch(path):
            reason = 'it was not written by torch.save, or is incomplete'
        elif 'weights_only' in str(error) or 'Unsupported global' in str(error):
            reason = 'it holds Python objects, which could run code, beside its tensors'
        raise WeightsError(f'{path} cannot be read as a checkpoint: {reason}') from error


def _load(path: str, map_location: Any) -> Any:
    if path.startswith(('http://', 'https://')):
        return torch.hub.load_state_dict_from_url(path, map_location=map_location, weights_only=True)
    if '://' not in path:
        return torch.load(os.path.expanduser(path), map_location, weights_only=True)
    from mmengine import fileio

    return torch.load(io.BytesIO(fileio.get(path)), map_location, weights_only=True)


def _is_written_by_torch(path: str) -> bool:
    """Whether the file is a zip archive or, as before torch 1.6, a pickle."""
    with open(path, 'rb') as file:
        return file.read(1) == b'\x80' or zipfile.is_zipfile(path)


@contextmanager
def _training_state_allowed() -> Iterator[None]:
    """Within it, ``torch.load(weights_only=True)`` also accepts what MMEngine keeps beside the tensors."""
    types = _training_state_types()
    allowed = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([each for each in types if each not in allowed]):
        yield


def allow_training_state() -> None:
    """Let ``torch.load`` accept MMEngine's training checkpoints as data, for the rest of the process.

    They hold log buffers and NumPy numbers, which torch 2.6 and newer refuses by default. This package reads them
    without this call; other programs, such as the hosts' inferencers, need it.

    Raises:
        ImportError: torch is older than 2.6.
    """
    torch.serialization.add_safe_globals(_training_state_types())


def _training_state_types() -> list[Any]:
    if not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):  # came with names for safe globals
        raise ImportError(f'reading checkpoints without running their code needs torch 2.6, found {torch.__version__}')
    types: list[Any] = [(_history_statistic, 'builtins.getattr')]
    # The original Swin repository saves its settings beside the weights, in a kind of dictionary.
    types.append((OrderedDict, 'yacs.config.CfgNode'))
    if find_spec('numpy') is not None:
        import numpy as np

        dtypes = {type(np.dtype(name)) for name in ('bool', 'int32', 'int64', 'uint8', 'float16', 'float32', 'float64')}
        # NumPy's own unpickling functions moved between versions 1 and 2, and files of either version name them.
        functions = [function.__reduce__()[0] for function in (np.zeros(1), np.float64(0))]
        named = [(f, f'numpy.{core}.multiarray.{f.__name__}') for f in functions for core in ('core', '_core')]
        types += [np.ndarray, np.dtype, *dtypes, *named]
    if find_spec('mmengine') is not None:
        from mmengine.logging import HistoryBuffer

        types.append(HistoryBuffer)
    return types


def _history_statistic(owner: type, name: str) -> Any:
    """What a pickled log buffer needs of ``getattr``, and no more: its own statistics."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'Unsupported global: attribute {name!r} of {owner!r}')
    return getattr(owner, name)


def state_dict_of(checkpoint: Any, path: str | Path = 'the checkpoint') -> dict[str, Tensor]:
    """The state dict inside a checkpoint, whether it is bare or under ``state_dict`` or ``model``.

    A leading ``module.``, as ``DistributedDataParallel`` leaves it, is removed from the names.

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
        or not all(isinstance(value, Tensor) for value in checkpoint.values())
    ):
        raise WeightsError(
            f'{path} holds no state dict: expected names and tensors, bare or under "state_dict" or "model"'
        )
    return {name.removeprefix('module.'): tensor for name, tensor in checkpoint.items()}


def check_fit(state_dict: dict[str, Tensor], model: nn.Module, path: str | Path, partial: bool = False) -> str | None:
    """Check that a state dict fits a model.

    Args:
        state_dict: Names to tensors.
        model: The model, not wrapped for several processes.
        path: Where the state dict comes from, for the message.
        partial: The state dict starts a training: some of it, such as a head for other classes, may be left out.
            Default: False, names and shapes must all be equal.

    Returns:
        A sentence about what does not fit, if anything.

    Raises:
        WeightsError: It does not fit, or has numbers that are not finite.
    """
    unsound = [name for name, tensor in state_dict.items() if not _is_sound(tensor)]
    if unsound:
        raise WeightsError(f'{path} has weights that are not finite numbers, {len(unsound)} of them: {unsound[0]}')
    fitted, wanted = _fitted(state_dict, model), model.state_dict()
    common = [name for name in wanted if name in fitted]
    reshaped = [name for name in common if wanted[name].shape != fitted[name].shape]
    differences = {
        'it lacks': [name for name in wanted if name not in fitted],
        'the model lacks': [name for name in fitted if name not in wanted],
        'shapes differ for': reshaped,
    }
    problems = '; '.join(
        f'{what} {", ".join(names[:3])}{" and more" if len(names) > 3 else ""}'
        for what, names in differences.items()
        if names
    )
    if not problems:
        return None
    if not partial or len(reshaped) == len(common):
        raise WeightsError(f'{path} is a checkpoint of another model: {problems}')
    return f'{path} fits the model in part: {problems}'


def _is_sound(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta and bool(tensor.isfinite().all())


def _fitted(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state dict as the model's own modules adapt it when they load it: tables for other windows, for instance."""
    state_dict = dict(state_dict)
    for name, module in model.named_modules():
        for hook in module._load_state_dict_pre_hooks.values():
            hook(state_dict, f'{name}.' if name else '', {}, True, [], [], [])
    return state_dict
