"""The convolution path of ACmix, which checkpoints of plain transformers lack."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..ops import shift_kernels


def add_second_path(state_dict: Mapping[str, Tensor], heads: Mapping[str, int]) -> dict[str, Tensor]:
    """Add the convolution path with rate 0, and attention's rate 1: the network's output stays the same.

    The path is initialised as in a new layer, from a fixed seed. ``heads`` maps attention layers to their heads.
    """
    generator = torch.Generator().manual_seed(0)
    added = {}
    for layer, num_heads in heads.items():
        like = state_dict[f'{layer}.proj.weight']
        bound = (3 * num_heads) ** -0.5
        second_path = {
            'attention_rate': torch.ones(1),
            'conv_rate': torch.zeros(1),
            'shift_conv.mixing': torch.rand(9, 3 * num_heads, generator=generator) * 2 * bound - bound,
            'shift_conv.mixing_bias': torch.zeros(9),
            'shift_conv.weight': shift_kernels(len(like), 3),
        }
        added |= {f'{layer}.{name}': tensor.to(like) for name, tensor in second_path.items()}
    return {**state_dict, **added}
