"""A config in short, for the report."""

from typing import Any

from mmengine.config import Config

from ..datasets import innermost

_PARTS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'decode_head', 'auxiliary_head', 'head')


def settings_of(cfg: Config) -> dict[str, str]:
    """What a training config sets, by name; what it does not set is left out."""
    model, loader = cfg.get('model', {}), cfg.get('train_dataloader') or {}
    roi_head = model.get('roi_head') or {}
    rows = {
        'model': model.get('type'),
        **{part.replace('_', ' '): _brief(model.get(part)) for part in _PARTS},
        **{f'RoI head, {part}': _brief(roi_head.get(part)) for part in ('bbox_head', 'mask_head')},
        'data': '; '.join(
            f'{each.get("type")} in {each.get("data_root")}' for each in innermost(loader.get('dataset'))
        ),
        'images per process': loader.get('batch_size'),
        'optimiser': _brief(cfg.get('optim_wrapper', {}).get('optimizer')),
        'schedule': _brief(cfg.get('param_scheduler')),
        'training': _brief(cfg.get('train_cfg')),
        'starts from': cfg.get('load_from')
        or _brief((model.get('backbone') or {}).get('init_cfg'))
        or 'random weights',
    }
    return {name: str(value) for name, value in rows.items() if value}


def _brief(settings: Any) -> str:
    """``Type(name=value, ...)`` for a part of a config, without what is nested in it."""
    if isinstance(settings, (list, tuple)):
        return '; '.join(_brief(each) for each in settings)
    if not isinstance(settings, dict):
        return '' if settings is None else str(settings)
    kind = settings.get('type') or ''
    arguments = ', '.join(
        f'{name}={value}'
        for name, value in settings.items()
        if name not in ('type', 'init_cfg') and (name == 'acmix' or not isinstance(value, (dict, list)))
    )
    return f'{getattr(kind, "__name__", kind)}({arguments})'
