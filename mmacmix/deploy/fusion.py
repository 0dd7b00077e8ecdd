"""Networks for inference: consecutive linear steps are merged into one."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import UserError
from ..layers.normalization import is_mergeable


def fuse(model: nn.Module) -> nn.Module:
    """Merge what a network with layers of this package computes in several linear steps, for inference.

    Layers are replaced by what their method ``fuse`` returns, which includes the batch normalisation after them. An
    ``mmacmix.layers.ACmix`` merges its rates, projects query, key and value at once, and computes the convolution path
    with one or two convolutions; an ``mmacmix.layers.XVolution`` becomes one convolution. Where modules name their
    convolutions and normalisations, as this package's ResNets do, or are called in sequence, batch normalisation is
    merged into plain convolutions, too. Layers without a ``fuse`` of their own are left as they are.

    In other people's modules, the normalisation after a layer is taken to be the child registered right after it.
    OpenMMLab's modules are written so, and MMCV's ``fuse_conv_bn`` relies on it, too.

    Args:
        model: A network with its weights loaded; it is changed, and set to evaluation.

    Returns:
        The same model, or the replacement of a single layer, with equal outputs. It has another state dict and cannot
        be trained.

    Raises:
        UserError: A layer cannot be merged exactly. Nothing has been changed then.
    """
    for name, module in model.named_modules():
        if hasattr(module, 'check_fusable'):
            try:
                module.check_fusable()
            except ValueError as error:
                raise UserError(f'{name}: {error}' if name else str(error)) from error
    model.eval()
    if hasattr(model, 'check_fusable'):
        return model.fuse().requires_grad_(False)
    for module in list(model.modules()):
        for conv, norm in _pairs(module):
            _merge(module, conv, norm)
    return model.requires_grad_(False)


def _pairs(module: nn.Module) -> list[tuple[str, str | None]]:
    """Children that may be merged: a convolution or layer, and the normalisation after it, if any."""
    if hasattr(module, 'conv_norm_pairs'):
        return module.conv_norm_pairs
    names = [name for name, _ in module.named_children()]
    if getattr(module, 'order', ('conv', 'norm'))[:2] != ('conv', 'norm'):  # MMCV's ConvModule
        return [(name, None) for name in names]
    pairs = list(pairwise([*names, None]))
    if isinstance(module, nn.Sequential):
        return pairs
    return [pair for pair in pairs if hasattr(getattr(module, pair[0]), 'check_fusable')]


def _merge(parent: nn.Module, conv: str, norm: str | None) -> None:
    layer, behind = getattr(parent, conv), getattr(parent, norm) if norm else None
    if not (is_mergeable(behind) and behind.num_features == getattr(layer, 'out_channels', None)):
        behind = None
    if hasattr(layer, 'check_fusable'):
        fused = layer.fuse(behind)
    elif type(layer) is nn.Conv2d and behind is not None:
        fused = fuse_conv_bn_eval(layer, behind)
    else:
        return
    if fused is not layer:
        setattr(parent, conv, fused)
        if behind is not None:
            setattr(parent, norm, nn.Identity())
