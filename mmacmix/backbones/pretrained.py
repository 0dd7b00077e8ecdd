"""Loading the checkpoint that a backbone's ``init_cfg`` names."""

from collections.abc import Sequence

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor

from ..checkpoints import WeightsError, convert, load_checkpoint, state_dict_of


def check_convert_weights(init_cfg: dict | Sequence[dict] | None) -> None:
    """Check that there is a checkpoint to convert, or no initialisation at all.

    Raises:
        ValueError: ``init_cfg`` is another initialisation.
    """
    if init_cfg and (not isinstance(init_cfg, dict) or init_cfg.get('type') != 'Pretrained'):
        raise ValueError(f"convert_weights needs init_cfg=dict(type='Pretrained', checkpoint=...), got {init_cfg}")


def load_pretrained(module: BaseModule, cfg: dict) -> None:
    """Load a checkpoint into a backbone.

    Args:
        module: The backbone.
        cfg: ``checkpoint``, and optionally the ``prefix`` of the backbone's names in it.

    Raises:
        WeightsError: It cannot be read, or does not fit.
    """
    path = cfg.get('checkpoint')
    if not path:
        raise WeightsError(f'init_cfg must name a checkpoint, got {cfg}')
    saved = _without_prefix(state_dict_of(load_checkpoint(path), path), cfg.get('prefix') or '', path)
    if module.convert_weights:
        _load_converted(module, saved, path)
    else:
        _check_share(module, saved, cfg)
        print_log(f'load model from: {path}', 'current')
        load_state_dict(module, saved, strict=False, logger='current')
    if hasattr(module, '_params_init_info'):  # while MMEngine initialises a whole network
        update_init_info(module, f'Pretrained: loaded from {path}')


def _without_prefix(saved: dict[str, Tensor], prefix: str, path: str) -> dict[str, Tensor]:
    """The weights whose names start with the prefix, without it."""
    if not prefix:
        return saved
    prefix = prefix.removesuffix('.') + '.'
    inside = {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}
    if not inside:
        raise WeightsError(f'{path} has no weights whose names start with {prefix!r}, the prefix of init_cfg')
    return inside


def _load_converted(module: BaseModule, saved: dict[str, Tensor], path: str) -> None:
    """Load someone else's weights; a convolution path that they lack keeps the network's own initial weights."""
    source = module.source_of(saved)
    try:
        converted = convert(saved, source)
    except ValueError as error:
        raise WeightsError(f'{path}: {error} (a converted checkpoint needs convert_weights=False)') from error
    if source in ('pvt', 'swin'):
        own = module.state_dict()
        converted.update({name: own[name] for name in own if '.shift_conv.' in name})
    try:
        module.load_state_dict(converted)
    except RuntimeError as error:
        problems = [line.strip() for line in str(error).splitlines()[1:]]
        more = f' and {len(problems) - 1} more' if len(problems) > 1 else ''
        raise WeightsError(f'{path} is of another {type(module).__name__}: {problems[0]}{more}') from error


def _check_share(module: BaseModule, saved: dict[str, Tensor], cfg: dict) -> None:
    """Refuse a checkpoint with less than a quarter of the tensors: the rest would silently keep random weights."""
    wanted = module.state_dict()
    fitting = sum(name in saved and saved[name].shape == wanted[name].shape for name in wanted)
    if fitting >= len(wanted) / 4:
        return
    hint = 'a published one needs tools/convert_checkpoint.py'
    if module.can_convert:
        hint += ', or convert_weights=True'
    if not cfg.get('prefix') and any(name.startswith('backbone.') for name in saved):
        hint = "it is of a whole network, so init_cfg needs prefix='backbone.'"
    kind = type(module).__name__
    raise WeightsError(
        f'{cfg["checkpoint"]} has {fitting or "none"} of the {len(wanted)} tensors of this {kind}: {hint}'
    )
