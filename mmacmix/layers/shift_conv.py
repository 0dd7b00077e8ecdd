"""The weights of ACmix's convolution path."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import feature_projection, mix, shift_conv, shift_kernels


class ShiftConv(nn.Module):
    """From an operator's input to the output of its convolution path, given the projections both paths share.

    Its weights are plain parameters, not ``nn.Conv2d``: initialisation that goes over all convolutions of a network
    would overwrite the shifts.

    Args:
        num_heads: Heads of the attention path.
        head_dim: Channels of a head.
        kernel_size: Side of the convolution's kernel, odd. Default: 3.
        stride: Default: 1.
        dilation: Default: 1.
        mixing_bias: Bias of the fully connected layer, as in ACmix-Swin. Default: False.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        mixing_bias: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        bound = (3 * num_heads) ** -0.5  # as nn.Conv2d starts a layer of 3 * num_heads inputs
        self.mixing = nn.Parameter(nn.init.uniform_(torch.empty(kernel_size**2, 3 * num_heads), -bound, bound))
        self.mixing_bias = nn.Parameter(torch.zeros(kernel_size**2)) if mixing_bias else None
        self.weight = nn.Parameter(shift_kernels(num_heads * head_dim, kernel_size))

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the path.

        Args:
            x: ``(B, in_channels, H, W)``.
            weight: ``(3 * num_heads * head_dim, in_channels)``, the projections to query, key and value.
            bias: ``(3 * num_heads * head_dim,)`` or None.

        Returns:
            ``(B, num_heads * head_dim, ceil(H / stride), ceil(W / stride))``.
        """
        weight, bias = feature_projection(weight, bias, self.mixing, self.mixing_bias)
        features = F.conv2d(x, weight[..., None, None], bias)
        return shift_conv(features, self.weight, self.stride, self.dilation)

    def of_projections(self, projections: Tensor) -> Tensor:
        """Apply the path to query, key and value that are there already: ``(B, 3 * num_heads * head_dim, H, W)``."""
        return shift_conv(mix(projections, self.mixing, self.mixing_bias), self.weight, self.stride, self.dilation)
