"""Weights that a config names must reach the network."""

from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader

from ..environment import state_dict_of


def check_pretrained(module: BaseModule) -> None:
    """Check the checkpoint of ``init_cfg=dict(type='Pretrained', ...)``, of which MMEngine takes whatever fits.

    Raises:
        ValueError: Nothing fits: training would start from random weights.
    """
    cfg = module.init_cfg
    if not isinstance(cfg, dict) or cfg.get('type') != 'Pretrained':
        return
    path, prefix = cfg['checkpoint'], cfg.get('prefix') or ''
    saved = state_dict_of(CheckpointLoader.load_checkpoint(path, map_location='cpu'), path)
    wanted = module.state_dict()
    kind = type(module).__name__
    start = prefix + '.' * bool(prefix and not prefix.endswith('.'))
    if any(start + name in saved and saved[start + name].shape == wanted[name].shape for name in wanted):
        return
    hint = 'convert a published one with tools/convert_checkpoint.py'
    if any(name.startswith('backbone.') for name in saved) and not prefix:
        hint = "it is of a whole detector or segmentor, so init_cfg needs prefix='backbone.'"
    raise ValueError(f'{path} has no weights of this {kind}: {hint}')
