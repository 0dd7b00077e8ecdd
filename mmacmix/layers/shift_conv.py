"""ACmix's convolution path."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import dense_kernels, feature_projection, grouped_kernels, mix, shift_and_sum, shift_kernels, sum_paths
from .arguments import check_choice

#: Cost of one multiply-add of a group convolution with few channels, relative to a dense convolution.
GROUPED_COST = 8
#: Most outputs per group for which merging the fully connected layer and the group convolution is faster.
MERGED_OUTPUTS = 2


class ShiftConv(nn.Module):
    """ACmix's convolution path: a fully connected layer, shifts and a sum (arXiv 2111.14556, section 4.2, figure 3).

    The weights are plain parameters, because initialisation of all ``nn.Conv2d`` of a network would overwrite the
    shifts.

    Args:
        num_heads: Heads of the attention path.
        head_dim: Channels per head.
        kernel_size: Side of the convolution's kernel, odd. Default: 3.
        stride: Stride of the convolution. Default: 1.
        dilation: Dilation of the convolution. Default: 1.
        inputs: Inputs of the fully connected layer, channels of the projections per index of ``head_dim``; None means
            query, key and value, ``3 * num_heads``. Default: None.
        mixing_bias: Bias of the fully connected layer, as in ACmix-Swin. Default: False.
        form: Kernels that shift and sum the features. ``'group'``: a group convolution with learned kernels, one per
            output channel and feature. ``'depthwise'``: a depthwise convolution with learned kernels, one per
            feature, and a sum that all heads share. ``'frozen'``: the same with fixed kernels. All start as shifts.
            Default: ``'group'``.

    Raises:
        ValueError: The form is unknown.
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
        self.heads_per_kernel = 1 if form == 'group' else num_heads
        self.num_heads, self.stride, self.dilation = num_heads, stride, dilation
        inputs = inputs or 3 * num_heads
        bound = inputs**-0.5  # nn.Conv2d's default initialisation
        self.mixing = nn.Parameter(nn.init.uniform_(torch.empty(kernel_size**2, inputs), -bound, bound))
        self.mixing_bias = nn.Parameter(torch.zeros(kernel_size**2)) if mixing_bias else None
        kernels = shift_kernels(num_heads * head_dim // self.heads_per_kernel, kernel_size)
        if form == 'frozen':
            self.register_buffer('weight', kernels)
        else:
            self.weight = nn.Parameter(kernels)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, rate: Tensor | None = None) -> Tensor:
        """``convolve`` with all of the bias: ``(B, num_heads * head_dim, ceil(H / stride), ceil(W / stride))``.

        Args:
            x, bias, rate: See ``convolve``.
            weight: ``(inputs * head_dim, in_channels)``.
        """
        out, taps = self.convolve(x, weight.unflatten(0, (self.mixing.shape[1], -1)), bias, rate)
        return sum_paths(None, out, taps, None, None, x, self.stride, self.dilation)

    def convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, rate: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Project an operator's input and apply the path, without a part of the bias.

        Args:
            x: ``(B, in_channels, H, W)``.
            weight: ``(inputs, head_dim, in_channels)``, the projections to query, key and value of all heads.
            bias: ``(inputs * head_dim,)`` or None.
            rate: Factor of the output, ``(1,)``, or None. Default: None.

        Returns:
            ``(B, num_heads * head_dim, ceil(H / stride), ceil(W / stride))``; and the bias that each tap still has to
            add where it lies inside the map, ``(num_heads * head_dim, k, k)``, or None. ``mmacmix.ops.sum_paths`` adds
            it.
        """
        mixing, mixing_bias = self._scaled_mixing(rate)
        if self.dense_is_faster(x.shape[1], self.num_heads // self.heads_per_kernel, x.device):
            kernels, taps = dense_kernels(self.weight, mixing, weight, bias, mixing_bias)
            padding = kernels.shape[2] // 2 * self.dilation
            out = F.conv2d(x, kernels, None, self.stride, (padding, padding), self.dilation)
            return self._for_all_heads(out), None if taps is None else self._for_all_heads(taps, 0)
        weight, bias = feature_projection(weight, bias, mixing, mixing_bias)
        return self._shift_and_sum(F.conv2d(x, weight[..., None, None], bias), self.weight), None

    def dense_is_faster(self, in_channels: int, heads: int, device: torch.device) -> bool:
        """Whether a dense convolution is faster than a projection and a group convolution with ``heads`` outputs."""
        if device.type != 'cpu':
            return True
        taps = self.mixing.shape[0]
        dense = heads * taps * in_channels
        # The stride leaves out pixels in both convolutions, but not in the projection.
        return dense <= self.stride**2 * taps * in_channels + GROUPED_COST * heads * taps**2

    def of_projections(self, projections: Tensor, rate: Tensor) -> Tensor:
        """Apply the path to maps that are projected already.

        Args:
            projections: Query, key and value, ``(B, head_dim, inputs, H, W)``, see ``by_index``.
            rate: Factor of the output, ``(1,)``.

        Returns:
            ``(B, num_heads * head_dim, ceil(H / stride), ceil(W / stride))``.
        """
        mixing, mixing_bias = self._scaled_mixing(rate)
        if self.num_heads > MERGED_OUTPUTS * self.heads_per_kernel:
            return self._shift_and_sum(mix(projections, mixing, mixing_bias), self.weight)
        kernels, taps = grouped_kernels(self.weight, mixing, mixing_bias)
        projections = projections.flatten(1, 2)
        out = shift_and_sum(projections, kernels, self.stride, self.dilation)
        return self._for_all_heads(sum_paths(None, out, taps, None, None, projections, self.stride, self.dilation))

    def by_index(self, maps: Tensor) -> Tensor:
        """``(B, n * head_dim, H, W)``, heads outermost, to ``(B, head_dim, n, H, W)``."""
        head_dim = self.weight.shape[0] * self.heads_per_kernel // self.num_heads
        if maps.shape[1] == head_dim:  # runtimes transpose an axis of length 1 slowly
            return maps[:, :, None]
        return maps.unflatten(1, (-1, head_dim)).transpose(1, 2)

    def macs(self, pixels: int, outputs: int) -> int:
        """Multiply-adds of the fully connected layer on ``pixels`` and of the shifts on ``outputs`` pixels."""
        head_dim = self.weight.shape[0] * self.heads_per_kernel // self.num_heads
        return self.mixing.numel() * head_dim * pixels + self.weight.numel() * outputs

    def _scaled_mixing(self, rate: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The fully connected layer times the rate, which is cheaper than scaling the output."""
        if rate is None:
            return self.mixing, self.mixing_bias
        return self.mixing * rate, None if self.mixing_bias is None else self.mixing_bias * rate

    def _shift_and_sum(self, features: Tensor, kernels: Tensor) -> Tensor:
        return self._for_all_heads(shift_and_sum(features, kernels, self.stride, self.dilation))

    def _for_all_heads(self, out: Tensor, dim: int = 1) -> Tensor:
        return out.repeat_interleave(self.heads_per_kernel, dim) if self.heads_per_kernel > 1 else out
