"""Networks for inference: consecutive linear operations are merged into one."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import UserError
from ..layers import MixingLayer
from ..layers.merging import is_mergeable


def fuse(model: nn.Module, dense: bool | None = None) -> nn.Module:
    """Merge the linear operations of a network with layers of this package, for inference.

    Each layer, and the batch normalisation after it, is replaced by the result of the layer's ``fuse``. An
    ``mmacmix.layers.ACmix`` merges its rates, projects query, key and value at once, and computes the convolution path
    with one or two convolutions; an ``mmacmix.layers.XVolution`` becomes one convolution. Layers that do not override
    ``fuse`` stay as they are. Batch normalisation is also merged into plain convolutions of ``nn.Sequential`` and of
    modules that list their pairs in ``conv_norm_pairs``, as this package's ResNets do.

    In other modules, the normalisation of a layer is assumed to be the child registered right after it, as in all of
    OpenMMLab's modules; MMCV's ``fuse_conv_bn`` makes the same assumption.

    Args:
        model: A network with its weights loaded. It is modified in place and set to evaluation mode.
        dense: Merge each ACmix's convolution path into one convolution; otherwise, it is two if that is faster on a
            CPU in PyTorch. None decides by the device of the weights. Default: None.

    Returns:
        The same model, or the replacement of a single layer, with equal outputs. Its state dict differs, and it cannot
        be trained.

    Raises:
        UserError: A layer cannot be merged exactly; the model is unchanged.
    """
    for name, module in model.named_modules():
        if isinstance(module, MixingLayer):
            try:
                module.check_fusable()
            except ValueError as error:
                raise UserError(f'{name}: {error}' if name else str(error)) from error
    model.eval()
    if isinstance(model, MixingLayer):
        return model.fuse(dense=dense).requires_grad_(False)
    for module in list(model.modules()):
        for conv, norm in _pairs(module):
            _merge(module, conv, norm, dense)
    return model.requires_grad_(False)


def _pairs(module: nn.Module) -> list[tuple[str, str | None]]:
    """Names of children that may be merged: a convolution or layer and the normalisation after it, if any."""
    if hasattr(module, 'conv_norm_pairs'):
        return module.conv_norm_pairs
    children = dict(module.named_children())
    if getattr(module, 'order', ('conv', 'norm'))[:2] != ('conv', 'norm'):  # MMCV's ConvModule
        return [(name, None) for name in children]
    pairs = pairwise([*children, None])
    is_sequence = isinstance(module, nn.Sequential)
    return [pair for pair in pairs if is_sequence or isinstance(children[pair[0]], MixingLayer)]


def _merge(parent: nn.Module, conv: str, norm: str | None, dense: bool | None) -> None:
    layer, norm_layer = getattr(parent, conv), getattr(parent, norm) if norm else None
    if not (is_mergeable(norm_layer) and norm_layer.num_features == getattr(layer, 'out_channels', None)):
        norm_layer = None
    if isinstance(layer, MixingLayer):
        fused = layer.fuse(norm_layer, dense)
    elif type(layer) is nn.Conv2d and norm_layer is not None:
        fused = fuse_conv_bn_eval(layer, norm_layer)
    else:
        return
    if fused is not layer:
        setattr(parent, conv, fused)
        if norm_layer is not None:
            setattr(parent, norm, nn.Identity())
