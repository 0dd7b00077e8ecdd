"""Backbones with ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` of huggingface_hub.

Each class is the backbone of the same name. A folder, or a repository of the Hub, holds the arguments as JSON
(``config.json``) and the weights in the format safetensors (``model.safetensors``). Nothing in it can run.
"""

import inspect
import json
from collections.abc import Iterator
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from .. import backbones
from ..errors import UserError
from ..versions import check_library

check_library('huggingface_hub')

from huggingface_hub import PyTorchModelHubMixin

__all__ = [
    'ACmixPyramidVisionTransformer',
    'ACmixResNet',
    'ACmixSAN',
    'ACmixSwinTransformer',
    'LESAResNet',
    'XVolutionResNet',
]


# The Hub links models with such a tag to the paper.
_ACMIX = 'arxiv:2111.14556'
_LESA = 'arxiv:2107.05637'
_XVOLUTION = 'arxiv:2106.02253'


class HubMixin(PyTorchModelHubMixin, library_name='mmacmix'):
    """Base of the classes below.

    ``from_pretrained`` returns the backbone in evaluation mode, and refuses weights that do not fit it unless
    ``strict=False`` is given.

    Raises:
        UserError: An argument is not plain data, or names a class that is not a registered layer; or there is an
            ``init_cfg``, as a folder has its own weights.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> 'HubMixin':
        _, *names = inspect.signature(cls.__init__).parameters
        for name, value in (dict(zip(names, args, strict=False)) | kwargs).items():
            _check(name, value)
        return super().__new__(cls, *args, **kwargs)

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **arguments: Any) -> 'HubMixin':
        return super()._from_pretrained(strict=strict, **arguments).eval()  # before version 1, it was in training mode

    @classmethod
    def _load_as_pickle(cls, model: nn.Module, model_file: str, *_: Any) -> nn.Module:
        """What the mixin does for a repository without safetensors."""
        raise UserError(f'weights must be in the format safetensors, in model.safetensors, but there is {model_file}')


class ACmixPyramidVisionTransformer(
    HubMixin, backbones.ACmixPyramidVisionTransformer, tags=['acmix', 'ACmixPyramidVisionTransformer', _ACMIX]
):
    """``mmacmix.backbones.ACmixPyramidVisionTransformer``."""


class ACmixResNet(HubMixin, backbones.ACmixResNet, tags=['acmix', 'ACmixResNet', _ACMIX]):
    """``mmacmix.backbones.ACmixResNet``."""


class ACmixSAN(HubMixin, backbones.ACmixSAN, tags=['acmix', 'ACmixSAN', _ACMIX]):
    """``mmacmix.backbones.ACmixSAN``."""


class ACmixSwinTransformer(HubMixin, backbones.ACmixSwinTransformer, tags=['acmix', 'ACmixSwinTransformer', _ACMIX]):
    """``mmacmix.backbones.ACmixSwinTransformer``."""


class LESAResNet(HubMixin, backbones.LESAResNet, tags=['lesa', 'LESAResNet', _LESA]):
    """``mmacmix.backbones.LESAResNet``."""


class XVolutionResNet(HubMixin, backbones.XVolutionResNet, tags=['xvolution', 'XVolutionResNet', _XVOLUTION]):
    """``mmacmix.backbones.XVolutionResNet``."""


def _check(name: str, value: Any) -> None:
    """Check an argument, which may come from a stranger's folder: MMEngine would import and call any type it names."""
    if name == 'init_cfg' and value is not None:
        raise UserError(f'a backbone for the Hub takes no init_cfg, load its weights after building it: got {value!r}')
    try:
        json.dumps(value)
    except (TypeError, ValueError):  # the mixin would leave it out of the folder
        raise UserError(f'{name} must be plain data, which JSON can hold, got {value!r}') from None
    for kind in _types(value):
        layer = MODELS.module_dict.get(kind) if isinstance(kind, str) else None
        # Modules of MMEngine could load further files.
        if not inspect.isclass(layer) or not issubclass(layer, nn.Module) or issubclass(layer, BaseModule):
            raise UserError(f'a type in {name} must be the registered name of a layer, such as "BN", got {kind!r}')


def _types(value: Any) -> Iterator[Any]:
    """All values of the key ``type`` in nested dicts and sequences."""
    if isinstance(value, dict):
        if 'type' in value:
            yield value['type']
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for each in value:
        yield from _types(each)
