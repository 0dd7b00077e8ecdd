"""ACmix's convolution path."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import dense_shift_conv, feature_projection, merged_kernels, mix, shift_and_sum, shift_kernels
from .arguments import check_choice

#: Time of one multiply-add of a group convolution with few channels, relative to one of a dense convolution.
GROUPED = 8


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
        inputs: Values that the fully connected layer mixes for an index of ``head_dim``; None stands for those of
            query, key and value, ``3 * num_heads``. Default: None.
        mixing_bias: Bias of the fully connected layer, as in ACmix-Swin. Default: False.
        form: How features are shifted and summed (figure 3). ``'group'``: a group convolution, with learned kernels
            that start as shifts, one for each output and feature. ``'depthwise'``: a depthwise convolution, with
            learned kernels that start as shifts, one a feature, and a sum that all heads share. ``'frozen'``: the
            same with kernels that stay shifts. Default: ``'group'``.

    Raises:
        ValueError: There is no such form.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        inputs: int | None = None,
        mixing_bias: bool = False,
        form: str = 'group',
    ) -> None:
        super().__init__()
        check_choice(('group', 'depthwise', 'frozen'), shift_form=form)
        self.sharing_heads = 1 if form == 'group' else num_heads
        self.num_heads, self.stride, self.dilation = num_heads, stride, dilation
        inputs = inputs or 3 * num_heads
        bound = inputs**-0.5  # as nn.Conv2d starts a layer
        self.mixing = nn.Parameter(nn.init.uniform_(torch.empty(kernel_size**2, inputs), -bound, bound))
        self.mixing_bias = nn.Parameter(torch.zeros(kernel_size**2)) if mixing_bias else None
        kernels = shift_kernels(num_heads * head_dim // self.sharing_heads, kernel_size)
        if form == 'frozen':
            self.register_buffer('weight', kernels)
        else:
            self.weight = nn.Parameter(kernels)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, rate: Tensor | None = None) -> Tensor:
        """Apply the path to an operator's input.

        Args:
            x: ``(B, in_channels, H, W)``.
            weight: ``(inputs * head_dim, in_channels)``, the projections to query, key and value.
            bias: ``(inputs * head_dim,)`` or None.
            rate: A factor of the output, ``(1,)``, or None. Default: None.

        Returns:
            ``(B, num_heads * head_dim, ceil(H / stride), ceil(W / stride))``.
        """
        weight, bias = feature_projection(weight, bias, self.mixing, self.mixing_bias)
        kernels = self.weight if rate is None else self.weight * rate  # smaller than the output
        if self.is_faster_dense(x.shape[1], self.num_heads // self.sharing_heads):
            merged, taps = merged_kernels(kernels, weight), merged_kernels(kernels, bias[:, None])[:, 0]
            return self._of_all_heads(dense_shift_conv(x, merged, taps, None, self.stride, self.dilation))
        return self._shift(F.conv2d(x, weight[..., None, None], bias), kernels)

    def is_faster_dense(self, in_channels: int, outputs: int) -> bool:
        """Whether one plain convolution is faster than the features and the group convolution that it is made of.

        Args:
            in_channels: Channels of the operator's input.
            outputs: Output channels for an index of ``head_dim``.
        """
        taps = self.mixing.shape[0]
        dense = outputs * taps * in_channels
        # Where outputs are strided, features are not.
        return dense <= self.stride**2 * taps * in_channels + GROUPED * outputs * taps**2

    def of_projections(self, projections: Tensor) -> Tensor:
        """Apply the path to query, key and value that are there already: ``(B, inputs * head_dim, H, W)``."""
        return self._shift(mix(projections, self.mixing, self.mixing_bias), self.weight)

    def macs(self, pixels: int, outputs: int) -> int:
        """Those of the fully connected layer on ``pixels`` and of the shifts on ``outputs`` pixels."""
        head_dim = self.weight.shape[0] * self.sharing_heads // self.num_heads
        return self.mixing.numel() * head_dim * pixels + self.weight.numel() * outputs

    def _shift(self, features: Tensor, kernels: Tensor) -> Tensor:
        return self._of_all_heads(shift_and_sum(features, kernels, self.stride, self.dilation))

    def _of_all_heads(self, out: Tensor) -> Tensor:
        """An output that heads share, for each of them."""
        return out.repeat_interleave(self.sharing_heads, 1) if self.sharing_heads > 1 else out
