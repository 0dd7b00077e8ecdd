"""Weights that a config names must reach the network."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import Tensor

from ..environment import allow_only_data_in_checkpoints, state_dict_of


def check_convert_weights(convert_weights: bool, init_cfg: dict | Sequence[dict] | None) -> None:
    """Check that what shall be converted is a checkpoint.

    Raises:
        ValueError: ``init_cfg`` is another initialisation.
    """
    if convert_weights and init_cfg and (not isinstance(init_cfg, dict) or init_cfg.get('type') != 'Pretrained'):
        raise ValueError(f"convert_weights needs init_cfg=dict(type='Pretrained', checkpoint=...), got {init_cfg}")


def pretrained_state_dict(module: BaseModule) -> dict[str, Tensor]:
    """The weights in the checkpoint of ``init_cfg=dict(type='Pretrained', ...)``."""
    allow_only_data_in_checkpoints()
    path = module.init_cfg['checkpoint']
    return state_dict_of(CheckpointLoader.load_checkpoint(path, map_location='cpu'), path)


def check_pretrained(module: BaseModule) -> None:
    """Check the checkpoint of ``init_cfg=dict(type='Pretrained', ...)``, of which MMEngine takes whatever fits.

    Raises:
        ValueError: Nothing fits: training would start from random weights.
    """
    cfg = module.init_cfg
    if not isinstance(cfg, dict) or cfg.get('type') != 'Pretrained':
        return
    path, prefix = cfg['checkpoint'], cfg.get('prefix') or ''
    saved = pretrained_state_dict(module)
    wanted = module.state_dict()
    kind = type(module).__name__
    start = prefix + '.' * bool(prefix and not prefix.endswith('.'))
    if any(start + name in saved and saved[start + name].shape == wanted[name].shape for name in wanted):
        return
    hint = 'convert a published one with tools/convert_checkpoint.py'
    if any(name.startswith('backbone.') for name in saved) and not prefix:
        hint = "it is of a whole detector or segmentor, so init_cfg needs prefix='backbone.'"
    raise ValueError(f'{path} has no weights of this {kind}: {hint}')
