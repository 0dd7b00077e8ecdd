"""Loading the checkpoint that a backbone's ``init_cfg`` names."""

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor

from ..checkpoints import WeightsError, convert, load_checkpoint, state_dict_of
from ..errors import listed


def load_pretrained(module: BaseModule, cfg: dict) -> None:
    """Load the ``checkpoint`` of a ``Pretrained`` initialisation, or its part under ``prefix``, into a backbone.

    Raises:
        WeightsError: The checkpoint cannot be read or does not fit.
    """
    path = cfg.get('checkpoint')
    if not path:
        raise WeightsError(f'init_cfg must name a checkpoint, got {cfg}')
    state_dict = state_dict_of(load_checkpoint(path), path)
    if cfg.get('prefix'):
        prefix = cfg['prefix'].removesuffix('.') + '.'
        state_dict = {name.removeprefix(prefix): each for name, each in state_dict.items() if name.startswith(prefix)}
        if not state_dict:
            raise WeightsError(f'{path} has no weights whose names start with {prefix!r}, the prefix of init_cfg')
    if module.convert_weights:
        _load_converted(module, state_dict, path)
    else:
        _check_overlap(module, state_dict, cfg)
        print_log(f'load model from: {path}', 'current')
        load_state_dict(module, state_dict, strict=False, logger='current')
    if hasattr(module, '_params_init_info'):  # set while MMEngine initialises a whole network
        update_init_info(module, f'Pretrained: loaded from {path}')


def _load_converted(module: BaseModule, state_dict: dict[str, Tensor], path: str) -> None:
    source = module.source_of(state_dict)
    try:
        converted = convert(state_dict, source)
    except ValueError as error:
        raise WeightsError(f'{path}: {error} (if it is already converted, set convert_weights=False)') from error
    if source in ('pvt', 'swin'):  # plain networks, without the convolution path
        converted |= {name: tensor for name, tensor in module.state_dict().items() if '.shift_conv.' in name}
    try:
        module.load_state_dict(converted)
    except RuntimeError as error:
        problems = [line.strip() for line in str(error).splitlines()[1:]]
        raise WeightsError(f'{path} does not fit this {type(module).__name__}: {listed(problems, 1)}') from error


def _check_overlap(module: BaseModule, state_dict: dict[str, Tensor], cfg: dict) -> None:
    """Refuse a checkpoint with less than a quarter of the tensors: the rest would silently keep random weights."""
    own = module.state_dict()
    fitting = sum(name in state_dict and state_dict[name].shape == own[name].shape for name in own)
    if fitting >= len(own) / 4:
        return
    hint = 'a published one needs tools/convert_checkpoint.py'
    if module.source_of(state_dict):
        hint += ', or convert_weights=True'
    if not cfg.get('prefix') and any(name.startswith('backbone.') for name in state_dict):
        hint = "it belongs to a whole network, so init_cfg needs prefix='backbone.'"
    kind = type(module).__name__
    raise WeightsError(f'{cfg["checkpoint"]} has {fitting or "none"} of the {len(own)} tensors of this {kind}: {hint}')
