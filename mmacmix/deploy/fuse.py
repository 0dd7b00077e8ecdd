"""Networks for inference: what is linear and comes one after the other becomes one."""

from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..backbones.acmix_resnet import ACmixResNet, Bottleneck
from ..layers import ACmix
from .fused_acmix import FusedACmix


def fuse(model: nn.Module) -> nn.Module:
    """Merge what an ACmix network computes in several steps, for inference.

    In every ACmix layer the rates and the batch normalisation behind it go into the weights, query, key and value
    become one projection, and the convolution path, a fully connected layer and a group convolution, becomes what is
    faster: a plain convolution, or a group convolution of features that come straight from the input. In an
    ACmix-ResNet batch normalisation goes into the other convolutions too.

    Args:
        model: A network, with its weights loaded; it is changed, and set to evaluation. Other normalisations than batch
            normalisation stay as they are.

    Returns:
        The same model, whose outputs stay equal. It has other entries in its state dict and cannot be trained.
    """
    model.eval()
    for module in list(model.modules()):
        if isinstance(module, Bottleneck):
            for index, norm in enumerate(module.norm_names, 1):
                _merge(module, f'conv{index}', norm)
        elif isinstance(module, ACmixResNet) and hasattr(module, 'conv1'):
            _merge(module, 'conv1', module._stem[1])
        elif isinstance(module, nn.Sequential):
            names = list(module._modules)
            for conv, norm in pairwise(names):
                _merge(module, conv, norm)
        else:
            _merge_acmix_of_a_host(module)
    return model.requires_grad_(False)


def _merge(parent: nn.Module, conv: str, norm: str) -> None:
    """Merge a convolution and the normalisation behind it, as far as there are such ones."""
    layer, behind = getattr(parent, conv), getattr(parent, norm)
    normalises = isinstance(behind, _BatchNorm)
    if isinstance(layer, ACmix):
        setattr(parent, conv, FusedACmix(layer, behind if normalises else None))
    elif type(layer) is nn.Conv2d and normalises:
        setattr(parent, conv, fuse_conv_bn_eval(layer, behind))
    else:
        return
    if normalises:
        setattr(parent, norm, nn.Identity())


def _merge_acmix_of_a_host(parent: nn.Module) -> None:
    """ACmix in other people's modules: in their ResNets, as MMCV's fuse_conv_bn has it too, a normalisation that is
    the next child normalises."""
    children = list(parent.named_children())
    for (name, layer), (norm, behind) in pairwise([*children, ('', None)]):
        if isinstance(layer, ACmix):
            fits = isinstance(behind, _BatchNorm) and behind.num_features == layer.out_channels
            setattr(parent, name, FusedACmix(layer, behind if fits else None))
            if fits:
                setattr(parent, norm, nn.Identity())
