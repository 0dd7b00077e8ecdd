"""Networks for inference: what is linear and comes one after the other becomes one."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..backbones.resnet import Block, ResNet
from ..layers import ACmix, XVolution
from .fused_acmix import FusedACmix
from .fused_xvolution import check_mergeable, fused_xvolution
from .normalization import is_linear

#: Layers, and what makes their replacement.
FUSED = {ACmix: FusedACmix, XVolution: fused_xvolution}


def fuse(model: nn.Module) -> nn.Module:
    """Merge what a network with layers of this package computes in several steps, for inference.

    In every ``mmacmix.layers.ACmix`` the rates and the batch normalisation behind it go into the weights, query,
    key and value become one projection, and the convolution path, a fully connected layer and a group convolution,
    becomes what is faster: a plain convolution, or a group convolution of features that come straight from the input.
    A ``mmacmix.layers.XVolution`` becomes one convolution, a plain one where nothing depends on the content. In this
    package's ResNets, and inside ``mmacmix.layers.LESA``, batch normalisation goes into the other convolutions too. The
    layers of the other backbones stay as they are. Elsewhere a normalisation counts as behind a layer where its name in
    the module comes next, the order in which OpenMMLab's modules call their parts.

    Args:
        model: A network, with its weights loaded; it is changed, and set to evaluation.

    Returns:
        The same model (of a lone layer, its replacement), whose outputs stay equal. It has other entries in its state
        dict and cannot be trained.

    Raises:
        ValueError: A layer cannot be merged exactly. Nothing has been changed then.
    """
    for name, module in model.named_modules():
        if isinstance(module, XVolution):
            try:
                check_mergeable(module)
            except ValueError as error:
                raise ValueError(f'{name}: {error}' if name else str(error)) from error
    model.eval()
    if isinstance(model, tuple(FUSED)):
        return _fused(model).requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, Block):
            for index, norm in enumerate(module.norm_names, 1):
                _merge(module, f'conv{index}', norm)
        elif isinstance(module, ResNet):
            if hasattr(module, 'conv1'):
                _merge(module, 'conv1', module._stem[1])
        else:
            names = [name for name, _ in module.named_children()]
            sequential = isinstance(module, nn.Sequential)
            for layer, behind in pairwise([*names, None]):
                # Children that are called in turn. Other people's modules, but for MMCV's ConvModule, tell their order
                # by that of their children, as far as these layers are concerned: MMCV's fuse_conv_bn relies on it too.
                if behind and getattr(module, 'order', ('conv', 'norm'))[:2] != ('conv', 'norm'):
                    behind = None
                if sequential or isinstance(getattr(module, layer), tuple(FUSED)):
                    _merge(module, layer, behind)
    return model.requires_grad_(False)


def _merge(parent: nn.Module, conv: str, norm: str | None) -> None:
    """Merge a convolution and the normalisation behind it, as far as there are such ones."""
    layer, behind = getattr(parent, conv), getattr(parent, norm) if norm else None
    if not _fits(behind, layer):
        behind = None
    if isinstance(layer, tuple(FUSED)):
        setattr(parent, conv, _fused(layer, behind))
    elif type(layer) is nn.Conv2d and behind is not None:
        setattr(parent, conv, fuse_conv_bn_eval(layer, behind))
    else:
        return
    if behind is not None:
        setattr(parent, norm, nn.Identity())


def _fused(layer: nn.Module, norm: nn.Module | None = None) -> nn.Module:
    """What stands for a layer, and the normalisation behind it."""
    return next(make for kind, make in FUSED.items() if isinstance(layer, kind))(layer, norm)


def _fits(norm: nn.Module | None, conv: nn.Module) -> bool:
    """Whether it is a normalisation of the convolution's output that can be merged."""
    return is_linear(norm) and norm.num_features == getattr(conv, 'out_channels', None)
