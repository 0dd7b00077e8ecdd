"""Merging linear layers for inference."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def is_mergeable(norm: nn.Module | None) -> bool:
    """Whether ``norm`` is a batch normalisation with running statistics and without hooks."""
    return isinstance(norm, _BatchNorm) and norm.running_var is not None and not has_hooks(norm)


def has_hooks(module: nn.Module) -> bool:
    """Whether forward hooks may change the module's input or output."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


@torch.no_grad()
def scale_and_shift(norm: _BatchNorm | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, ``(C,)`` each, of a batch normalisation in evaluation mode; None is the identity.

    They get dtype and device of ``like``, the weights ``(C, ...)`` of the layer before it.
    """
    if norm is None:
        return like.new_ones(len(like)), like.new_zeros(len(like))
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    return scale.to(like), shift.to(like)


@torch.no_grad()
def conv_with(
    weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A ``torch.nn.Conv2d`` with the given weight and bias."""
    conv = nn.Conv2d(
        weight.shape[1] * groups, len(weight), weight.shape[2], stride, padding, dilation, groups, device='meta'
    )
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    return conv
