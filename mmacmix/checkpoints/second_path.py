"""What a plain transformer's checkpoint lacks: ACmix's convolution path."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..ops import shift_kernels


def add_second_path(state_dict: Mapping[str, Tensor], heads: Mapping[str, int]) -> dict[str, Tensor]:
    """Add the convolution path at rate 0, beside attention at rate 1: the network stays what it was.

    The path starts as that of a new layer does, from the same numbers each time.

    Args:
        state_dict: Names of ours to tensors, without the second path.
        heads: Attention heads of each attention layer, by its name.
    """
    generator = torch.Generator().manual_seed(0)
    added = {}
    for layer, number in heads.items():
        like = state_dict[f'{layer}.proj.weight']
        bound = (3 * number) ** -0.5
        second_path = {
            'attention_rate': torch.ones(1),
            'conv_rate': torch.zeros(1),
            'shift_conv.mixing': torch.rand(9, 3 * number, generator=generator) * 2 * bound - bound,
            'shift_conv.mixing_bias': torch.zeros(9),
            'shift_conv.weight': shift_kernels(len(like), 3),
        }
        added.update({f'{layer}.{name}': tensor.to(like) for name, tensor in second_path.items()})
    return {**state_dict, **added}
