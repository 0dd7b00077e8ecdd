"""Weights that a config names must reach the network."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor

from ..checkpoints import convert
from ..environment import WeightsError, load_checkpoint, state_dict_of


def check_convert_weights(convert_weights: bool, init_cfg: dict | Sequence[dict] | None) -> None:
    """Check that what shall be converted is a checkpoint.

    Raises:
        ValueError: ``init_cfg`` is another initialisation.
    """
    if convert_weights and init_cfg and (not isinstance(init_cfg, dict) or init_cfg.get('type') != 'Pretrained'):
        raise ValueError(f"convert_weights needs init_cfg=dict(type='Pretrained', checkpoint=...), got {init_cfg}")


def load_converted(module: BaseModule, saved: dict[str, Tensor], source: str) -> None:
    """Load someone else's weights.

    A convolution path that they lack starts as the network's own did, in whatever form that is.

    Args:
        module: The network.
        saved: Their state dict.
        source: As ``mmacmix.checkpoints.convert`` takes it.

    Raises:
        WeightsError: It is no such state dict, or of another network.
    """
    path = module.init_cfg['checkpoint']
    try:
        converted = convert(saved, source)
    except ValueError as error:
        raise WeightsError(f'{path}: {error} (one that is converted already needs convert_weights=False)') from error
    if source in ('pvt', 'swin'):
        own = module.state_dict()
        converted.update({name: own[name] for name in own if '.shift_conv.' in name})
    try:
        module.load_state_dict(converted)
    except RuntimeError as error:
        problems = [line.strip() for line in str(error).splitlines()[1:]]
        more = f' and {len(problems) - 1} more' if len(problems) > 1 else ''
        raise WeightsError(f'{path} is of another {type(module).__name__}: {problems[0]}{more}') from error


def pretrained_state_dict(module: BaseModule) -> dict[str, Tensor]:
    """The weights in the checkpoint of ``init_cfg=dict(type='Pretrained', ...)``, those behind its ``prefix``.

    Raises:
        WeightsError: It names no checkpoint, or one that cannot be read.
    """
    path = module.init_cfg.get('checkpoint')
    if not path:
        raise WeightsError(f'init_cfg must name a checkpoint, got {module.init_cfg}')
    saved = state_dict_of(load_checkpoint(path), path)
    prefix = module.init_cfg.get('prefix') or ''
    if not prefix:
        return saved
    prefix = prefix.removesuffix('.') + '.'
    inside = {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}
    if not inside:
        raise WeightsError(f'{path} has no weights whose names start with {prefix!r}, the prefix of init_cfg')
    return inside


def check_pretrained(module: BaseModule) -> None:
    """Check the checkpoint of ``init_cfg=dict(type='Pretrained', ...)``, of which MMEngine takes whatever fits.

    Raises:
        WeightsError: Less than a quarter of the network's tensors is in it: almost all would start from random weights.
    """
    cfg = module.init_cfg
    if not isinstance(cfg, dict) or cfg.get('type') != 'Pretrained':
        return
    saved, wanted = pretrained_state_dict(module), module.state_dict()
    fitting = sum(name in saved and saved[name].shape == wanted[name].shape for name in wanted)
    if fitting >= len(wanted) / 4:
        return
    hint = 'a published one needs tools/convert_checkpoint.py'
    if hasattr(module, 'convert_weights'):
        hint += ', or convert_weights=True'
    if not cfg.get('prefix') and any(name.startswith('backbone.') for name in saved):
        hint = "it is of a whole network, so init_cfg needs prefix='backbone.'"
    kind = type(module).__name__
    raise WeightsError(
        f'{cfg["checkpoint"]} has {fitting or "none"} of the {len(wanted)} tensors of this {kind}: {hint}'
    )
