"""Reading checkpoints as data: no code in them runs, and no setting of the process changes."""

import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from ..errors import LibraryError, UserError, first_line, listed
from .data_pickle import TORCH_IS_OLD, load_data, training_state_types
from .onnx_files import read_onnx
from .safetensors_files import is_safetensors, read_safetensors

_CODE = 'it holds Python objects, which could run code, beside its tensors'
# Words in the messages of torch and of data_pickle.py, and what they mean.
_REASONS = {
    'TorchScript': 'it is a TorchScript archive, which is a program',
    '.tar': 'it is a tar archive, the format of torch before 0.1.10',
    'Unsupported global': _CODE,
    'weights_only': _CODE,
    'pickle_module': 'the environment sets TORCH_FORCE_WEIGHTS_ONLY_LOAD, which torch before 2.6 implements unsafely',
}


class WeightsError(UserError):
    """A checkpoint cannot be read or does not fit; the message is one sentence."""


def load_checkpoint(path: str | Path, map_location: Any = 'cpu') -> Any:
    """Read a checkpoint, or a training state of MMEngine, without running code from it.

    A file of the format safetensors, whatever its name, is returned as a checkpoint with ``state_dict`` and ``meta``,
    and so are the convolutions of a file whose name ends with ``.onnx``.

    Args:
        path: A file, an ``http(s)://`` address (downloaded once into torch's cache), or any other address that
            ``mmengine.fileio`` reads.
        map_location: As in ``torch.load``; for safetensors a device, or else the CPU is used. Default: ``'cpu'``.

    Raises:
        LibraryError: The file needs the package safetensors or onnx, which is not installed.
        WeightsError: The file is missing, is not a checkpoint, or contains anything but data.
    """
    path = os.path.expanduser(path)
    try:
        with _local_file(path) as file:
            return _load(file, map_location)
    except LibraryError:
        raise
    except FileNotFoundError:
        raise WeightsError(f'there is no checkpoint at {path}') from None
    except Exception as error:  # torch, the network and file systems raise many types
        reason = str(error) if isinstance(error, _Unreadable) else f'{type(error).__name__} {first_line(error)}'
        raise WeightsError(f'{path} cannot be read as a checkpoint: {reason}') from error


class _Unreadable(Exception):
    """The message says why a file is not read."""


@contextmanager
def _local_file(path: str) -> Iterator[str]:
    if path.startswith(('http://', 'https://')):
        yield _downloaded(path)
    elif '://' in path:
        from mmengine import fileio

        with fileio.get_local_path(path) as local:
            yield str(local)
    else:
        yield path


def _downloaded(url: str) -> str:
    """The file of a URL in torch's cache, where ``torch.hub`` puts it, too."""
    path = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlparse(url).path))
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.hub.download_url_to_file(url, path)
    return path


def _load(path: str, map_location: Any) -> Any:
    if is_safetensors(path):
        return read_safetensors(path, map_location)
    if path.endswith('.onnx'):
        return read_onnx(path)
    try:
        if TORCH_IS_OLD:
            return load_data(path, map_location)
        with _training_state_allowed():
            return torch.load(path, map_location, weights_only=True)
    except Exception as error:
        if not _is_written_by_torch(path):
            raise _Unreadable('it was not written by torch.save, or is incomplete') from error
        for word, reason in _REASONS.items():
            if word in str(error):
                raise _Unreadable(reason) from error
        raise


def _is_written_by_torch(path: str) -> bool:
    """Whether the file is a zip archive or, as before torch 1.6, a pickle or a tar archive."""
    with open(path, 'rb') as file:
        return file.read(1) == b'\x80' or zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def allow_training_state() -> None:
    """Let ``torch.load(weights_only=True)`` accept MMEngine's training states in the whole process.

    They contain log buffers and NumPy scalars, which torch refuses by default. ``load_checkpoint`` works without this
    call; the hosts' own tools need it. Before torch 2.6 it does nothing: there, ``torch.load`` accepts everything by
    default, code included.
    """
    if not TORCH_IS_OLD:
        torch.serialization.add_safe_globals(training_state_types())


@contextmanager
def _training_state_allowed() -> Iterator[None]:
    """As ``allow_training_state``, inside the context only."""
    allowed = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([each for each in training_state_types() if each not in allowed]):
        yield


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
    text = '; '.join(f'{difference} {listed(names, 3)}' for difference, names in differences.items() if names)
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
