"""What a batch normalisation with fixed statistics is: a factor and a summand a channel."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def is_linear(norm: nn.Module | None) -> bool:
    """Whether it is a batch normalisation by statistics that are there, whose output nobody watches."""
    return (
        isinstance(norm, _BatchNorm)
        and norm.running_var is not None
        and not (norm._forward_hooks or norm._forward_pre_hooks)
    )


def scale_and_shift(norm: _BatchNorm | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and summand ``(C,)`` of evaluation; 1 and 0 where there is no normalisation.

    Args:
        norm: The normalisation, or None.
        like: Weights ``(C, ...)`` of the layer in front, whose type and device the results get.
    """
    if norm is None:
        return torch.ones_like(like[:, 0, 0, 0]), torch.zeros_like(like[:, 0, 0, 0])
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    return scale.detach().to(like), shift.detach().to(like)
