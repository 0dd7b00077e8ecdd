"""A summary of a config for the report."""

from typing import Any

from mmengine.config import Config

from ..datasets import innermost

_PARTS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'decode_head', 'auxiliary_head', 'head')
_NESTED = ('network', 'layer')  # parts of parts, which are shown


def settings_of(cfg: Config) -> dict[str, str]:
    """The main settings of a training config, by name, without those that it does not have."""
    model, loader = cfg.get('model', {}), cfg.get('train_dataloader') or {}
    roi_head = model.get('roi_head') or {}
    datasets = (f'{each.get("type")} in {each.get("data_root")}' for each in innermost(loader.get('dataset')))
    backbone = model.get('backbone') or {}
    pretrained = cfg.get('load_from') or _summary(backbone.get('network', backbone).get('init_cfg'))
    settings = {
        'model': model.get('type'),
        **{part.replace('_', ' '): _summary(model.get(part)) for part in _PARTS},
        **{f'RoI head, {part}': _summary(roi_head.get(part)) for part in ('bbox_head', 'mask_head')},
        'data': '; '.join(datasets),
        'images per process': loader.get('batch_size'),
        'optimiser': _summary(cfg.get('optim_wrapper', {}).get('optimizer')),
        'schedule': _summary(cfg.get('param_scheduler')),
        'training': _summary(cfg.get('train_cfg')),
        'starts from': pretrained or 'random weights',
    }
    return {name: str(value) for name, value in settings.items() if value}


def _summary(settings: Any) -> str:
    """``Type(name=value, ...)`` for a part of a config, without most nested parts."""
    if isinstance(settings, (list, tuple)):
        return '; '.join(_summary(each) for each in settings)
    if not isinstance(settings, dict):
        return '' if settings is None else str(settings)
    kind = settings.get('type') or ''
    arguments = ', '.join(
        f'{name}={_summary(value) if name in _NESTED else value}'
        for name, value in settings.items()
        if name in ('acmix', *_NESTED) or (name not in ('type', 'init_cfg') and not isinstance(value, (dict, list)))
    )
    return f'{getattr(kind, "__name__", kind)}({arguments})'
