"""Networks for inference: what is linear and comes one after the other becomes one."""

from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..backbones.acmix_resnet import ACmixResNet, Bottleneck
from ..layers import ACmix
from .fused_acmix import FusedACmix


def fuse(model: nn.Module) -> nn.Module:
    """Merge what a network with ACmix layers computes in several steps, for inference.

    In every ``mmacmix.layers.ACmix`` the rates and the batch normalisation behind it go into the weights, query,
    key and value become one projection, and the convolution path, a fully connected layer and a group convolution,
    becomes what is faster: a plain convolution, or a group convolution of features that come straight from the input.
    In an ACmix-ResNet batch normalisation goes into the other convolutions too. The layers of the other backbones stay
    as they are. Elsewhere a normalisation counts as behind a layer where its name in the module comes next, the order
    in which OpenMMLab's modules call their parts.

    Args:
        model: A network, with its weights loaded; it is changed, and set to evaluation.

    Returns:
        The same model (of a lone ACmix layer, its replacement), whose outputs stay equal. It has other entries in its
        state dict and cannot be trained.
    """
    model.eval()
    if isinstance(model, ACmix):
        return FusedACmix(model).requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, Bottleneck):
            for index, norm in enumerate(module.norm_names, 1):
                _merge(module, f'conv{index}', norm)
        elif isinstance(module, ACmixResNet):
            if hasattr(module, 'conv1'):
                _merge(module, 'conv1', module._stem[1])
        else:
            names = [name for name, _ in module.named_children()]
            sequential = isinstance(module, nn.Sequential)
            for layer, behind in pairwise([*names, None]):
                # Children that are called in turn. Other people's modules, but for MMCV's ConvModule, tell their order
                # by that of their children, as far as ACmix is concerned: MMCV's fuse_conv_bn relies on it too.
                if behind and getattr(module, 'order', ('conv', 'norm'))[:2] != ('conv', 'norm'):
                    behind = None
                if sequential or isinstance(getattr(module, layer), ACmix):
                    _merge(module, layer, behind)
    return model.requires_grad_(False)


def _merge(parent: nn.Module, conv: str, norm: str | None) -> None:
    """Merge a convolution and the normalisation behind it, as far as there are such ones."""
    layer, behind = getattr(parent, conv), getattr(parent, norm) if norm else None
    if not _fits(behind, layer):
        behind = None
    if isinstance(layer, ACmix):
        setattr(parent, conv, FusedACmix(layer, behind))
    elif type(layer) is nn.Conv2d and behind is not None:
        setattr(parent, conv, fuse_conv_bn_eval(layer, behind))
    else:
        return
    if behind is not None:
        setattr(parent, norm, nn.Identity())


def _fits(norm: nn.Module | None, conv: nn.Module) -> bool:
    """Whether it is a normalisation, by statistics that are there, of the convolution's output that nobody watches."""
    return (
        isinstance(norm, _BatchNorm)
        and norm.num_features == getattr(conv, 'out_channels', None)
        and norm.running_var is not None
        and not (norm._forward_hooks or norm._forward_pre_hooks)
    )
