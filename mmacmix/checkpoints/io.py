"""Reading checkpoints as data: no code in them runs, and no setting of the process changes."""

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

from ..errors import LibraryError, UserError, first_line


class WeightsError(UserError):
    """A checkpoint cannot be read or does not fit; the message is one sentence."""


def load_checkpoint(path: str | Path, map_location: Any = 'cpu') -> Any:
    """Read a checkpoint, or a training state of MMEngine, without running code from it.

    Args:
        path: A file, an ``http(s)://`` address (downloaded once into torch's cache), or any other address that
            ``mmengine.fileio`` reads.
        map_location: As in ``torch.load``. Default: ``'cpu'``.

    Raises:
        LibraryError: torch is older than 2.6.
        WeightsError: The file is missing, is not a checkpoint, or contains anything but data.
    """
    path = os.path.expanduser(path)
    with _training_state_allowed():
        try:
            return _load(path, map_location)
        except FileNotFoundError:
            raise WeightsError(f'there is no checkpoint at {path}') from None
        except Exception as error:  # torch, the network and file systems raise many types
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
        return torch.load(path, map_location, weights_only=True)
    from mmengine import fileio

    return torch.load(io.BytesIO(fileio.get(path)), map_location, weights_only=True)


def _is_written_by_torch(path: str) -> bool:
    """Whether the file is a zip archive or, as before torch 1.6, a pickle."""
    with open(path, 'rb') as file:
        return file.read(1) == b'\x80' or zipfile.is_zipfile(path)


def allow_training_state() -> None:
    """Let ``torch.load(weights_only=True)`` accept MMEngine's training states in the whole process.

    They contain log buffers and NumPy scalars, which torch refuses by default. ``load_checkpoint`` works without this
    call; the hosts' own tools need it.

    Raises:
        LibraryError: torch is older than 2.6.
    """
    torch.serialization.add_safe_globals(_training_state_types())


@contextmanager
def _training_state_allowed() -> Iterator[None]:
    """As ``allow_training_state``, inside the context only."""
    allowed = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([each for each in _training_state_types() if each not in allowed]):
        yield


def _training_state_types() -> list[Any]:
    if not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):  # older than named safe globals
        raise LibraryError(f'reading checkpoints without running their code needs torch 2.6, found {torch.__version__}')
    # The original Swin repository stores its settings, a subclass of dict, with the weights.
    types: list[Any] = [(_history_statistic, 'builtins.getattr'), (OrderedDict, 'yacs.config.CfgNode')]
    if find_spec('numpy') is not None:
        import numpy as np

        dtypes = {type(np.dtype(name)) for name in ('bool', 'int32', 'int64', 'uint8', 'float16', 'float32', 'float64')}
        # NumPy 2 moved these functions; files contain the old or the new module name.
        functions = [each.__reduce__()[0] for each in (np.zeros(1), np.float64(0))]
        named = [(each, f'numpy.{core}.multiarray.{each.__name__}') for each in functions for core in ('core', '_core')]
        types += [np.ndarray, np.dtype, *dtypes, *named]
    if find_spec('mmengine') is not None:
        from mmengine.logging import HistoryBuffer

        types.append(HistoryBuffer)
    return types


def _history_statistic(owner: type, name: str) -> Any:
    """Stands for ``getattr``, which pickled log buffers call, and returns nothing but their statistics."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'Unsupported global: attribute {name!r} of {owner!r}')
    return getattr(owner, name)


def state_dict_of(checkpoint: Any, path: str | Path = 'the checkpoint') -> dict[str, Tensor]:
    """The state dict of a checkpoint, which may be bare or under ``state_dict`` or ``model``.

    The prefix ``module.`` of ``DistributedDataParallel`` is removed from its keys.

    Raises:
        WeightsError: There is none.
    """
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    tensors = checkpoint.values() if isinstance(checkpoint, dict) else []
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise WeightsError(
            f'{path} holds no state dict: expected names and tensors, bare or under "state_dict" or "model"'
        )
    return {name.removeprefix('module.'): tensor for name, tensor in checkpoint.items()}


def check_fit(state_dict: dict[str, Tensor], model: nn.Module, path: str | Path, partial: bool = False) -> str | None:
    """Check that a state dict fits a model.

    Args:
        state_dict: Keys to tensors.
        model: The model, without a wrapper such as ``DistributedDataParallel``.
        path: The checkpoint, for messages.
        partial: Accept a state dict that fits in part, such as one whose head is for other classes. Default: False.

    Returns:
        A sentence that lists the differences, or None.

    Raises:
        WeightsError: The state dict does not fit, or has values that are not finite.
    """
    unsound = [name for name, tensor in state_dict.items() if not _is_sound(tensor)]
    if unsound:
        raise WeightsError(f'{path} has weights that are not finite numbers, {len(unsound)} of them: {unsound[0]}')
    state_dict, own = _adapted(state_dict, model), model.state_dict()
    common = [name for name in own if name in state_dict]
    reshaped = [name for name in common if own[name].shape != state_dict[name].shape]
    differences = {
        'it lacks': [name for name in own if name not in state_dict],
        'the model lacks': [name for name in state_dict if name not in own],
        'shapes differ for': reshaped,
    }
    text = '; '.join(
        f'{difference} {", ".join(names[:3])}{" and more" if len(names) > 3 else ""}'
        for difference, names in differences.items()
        if names
    )
    if not text:
        return None
    if not partial or len(reshaped) == len(common):
        raise WeightsError(f'{path} is a checkpoint of another model: {text}')
    return f'{path} fits the model in part: {text}'


def _is_sound(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta and bool(tensor.isfinite().all())


def _adapted(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state dict after the load hooks of the model's modules, which resize position tables, for example."""
    state_dict = dict(state_dict)
    for name, module in model.named_modules():
        for hook in module._load_state_dict_pre_hooks.values():
            hook(state_dict, f'{name}.' if name else '', {}, True, [], [], [])
    return state_dict
