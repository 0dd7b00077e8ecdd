"""Pickles as data: what checkpoints may contain, and a ``pickle_module`` for ``torch.load`` before torch 2.6.

There, ``weights_only=True`` runs TorchScript archives (CVE-2025-32434) and cannot read MMEngine's training states.
"""

import os
import pickle
import tarfile
from collections import OrderedDict
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, BinaryIO

import torch

TORCH_IS_OLD = torch.__version__ < (2, 6)
_load = torch.load  # command lines replace it


def load_data(f: str | os.PathLike | BinaryIO, map_location: Any = None, *_: Any, **__: Any) -> Any:
    """As ``torch.load``, for data only; of its arguments, only the file and ``map_location`` are used.

    Raises:
        pickle.UnpicklingError: The file holds anything but data, or is a TorchScript or tar archive.
    """
    with open(f, 'rb') if isinstance(f, (str, os.PathLike)) else nullcontext(f) as file:
        start = file.tell()
        # torch and zipfile may disagree about what an archive contains, so its directory is not read.
        if _contains(file, b'constants.pkl'):
            raise pickle.UnpicklingError('TorchScript archives are not data')
        file.seek(start)
        if tarfile.is_tarfile(file):
            raise pickle.UnpicklingError('files in the .tar format are not read')
        file.seek(start)
        return _load(file, map_location, pickle_module=_this_module(), weights_only=False)


def _contains(file: BinaryIO, word: bytes) -> bool:
    end = b''
    while chunk := file.read(1 << 20):
        if word in end + chunk:
            return True
        end = (end + chunk)[1 - len(word) :]
    return False


def _this_module() -> Any:
    from . import data_pickle

    return data_pickle


class Unpickler(pickle._Unpickler):  # the one in C has no overridable instructions
    """Looks up only what ``_globals`` lists, and sets the state of data only."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        module = 'builtins' if module == '__builtin__' else module  # Python 2's name, which files contain
        found = _globals().get(f'{module}.{name}')
        if found is None:
            raise pickle.UnpicklingError(f'Unsupported global: {module}.{name}')
        return found

    def load_build(self) -> None:
        """Set the state of an object, but not of classes and functions, which the process shares."""
        state, instance = self.stack.pop(), self.stack[-1]
        if type(instance).__module__.partition('.')[0] == 'numpy' and not isinstance(instance, type):
            instance.__setstate__(state)  # of arrays and dtypes
        elif type(instance) is OrderedDict or type(instance).__name__ == 'HistoryBuffer':
            vars(instance).update(state)
            vars(instance).pop('statistics_methods', None)  # would be set for all log buffers of the process
        else:
            raise pickle.UnpicklingError(f'Unsupported global: the state of a {type(instance).__name__}')

    def load_binpersid(self) -> None:
        """Load a storage. For a module, torch would compare source code, and write the differences to a file."""
        if not isinstance(self.stack[-1], tuple) or self.stack[-1][0] not in ('storage', b'storage'):
            raise pickle.UnpicklingError('Unsupported global: a module')
        super().load_binpersid()

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BINPERSID[0]] = load_binpersid


def load(file: BinaryIO, **options: Any) -> Any:
    """As ``pickle.load``, for data only."""
    return Unpickler(file, **options).load()


@cache
def _globals() -> dict[str, Any]:
    """Objects by the names that files contain; ``torch.load`` itself adds the types of storages."""
    rebuilders = ('_rebuild_tensor', '_rebuild_tensor_v2', '_rebuild_parameter')
    found = {
        'collections.OrderedDict': OrderedDict,
        'builtins.set': set,
        'builtins.complex': complex,
        '_codecs.encode': _encode,
        'torch.Size': torch.Size,
        'torch.device': torch.device,
        **{f'torch._utils.{name}': getattr(torch._utils, name) for name in rebuilders},
        **{f'torch.{name}': each for name, each in vars(torch).items() if isinstance(each, torch.dtype)},
    }
    for each in training_state_types():
        each, name = each if isinstance(each, tuple) else (each, f'{each.__module__}.{each.__qualname__}')
        found[name] = each
    return found


def _encode(text: str, encoding: str) -> bytes:
    """Stands for ``codecs.encode``, which NumPy's values are pickled with."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'Unsupported global: the codec {encoding!r}')
    return text.encode('latin1')


def training_state_types() -> list[Any]:
    """What MMEngine's training states contain: types, or pairs of an object and its name in files."""
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
