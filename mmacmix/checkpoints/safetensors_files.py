"""Files of the format safetensors, which can only be data: tensors by name, and strings."""

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..errors import LibraryError


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as this format does: with the length of a header in JSON, below 4 GB, and the header."""
    with open(path, 'rb') as file:
        start = file.read(9)
    return start[4:] == b'\0\0\0\0{'


def read_safetensors(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a file as a checkpoint: ``state_dict``, and its strings as ``meta``, where ``dataset_meta`` is JSON.

    Args:
        path: The file.
        map_location: A torch device; anything else stands for the CPU. Default: ``'cpu'``.

    Raises:
        LibraryError: The package safetensors is not installed.
    """
    device = str(map_location) if isinstance(map_location, (str, torch.device)) else 'cpu'
    with _library('safetensors').safe_open(path, 'pt', device=device) as file:
        meta: dict[str, Any] = dict(file.metadata() or {})
        state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if 'dataset_meta' in meta:
        meta['dataset_meta'] = json.loads(meta['dataset_meta'])
    return dict(state_dict=state_dict, meta=meta)


def safetensors_bytes(state_dict: dict[str, Tensor], meta: dict[str, Any]) -> bytes:
    """The content of a file with a state dict, and with ``meta`` as strings: JSON, for what is not a string.

    Raises:
        LibraryError: The package safetensors is not installed.
    """
    strings = {key: each if isinstance(each, str) else json.dumps(each, default=str) for key, each in meta.items()}
    # Tensors must not share memory.
    copies = {name: each.clone(memory_format=torch.contiguous_format) for name, each in state_dict.items()}
    return _library('safetensors.torch').save(copies, dict(strings, format='pt'))


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise LibraryError(
            'files of the format safetensors need the package of this name: pip install safetensors'
        ) from error
