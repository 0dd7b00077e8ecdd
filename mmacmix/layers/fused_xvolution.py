"""X-volution for inference: both branches as one convolution with the kernel ``w^A(x) + w^C``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import is_exporting, kernel_offsets, related, shifted, stacked
from .conv_signature import ConvSignature
from .merging import conv_with, scale_and_shift
from .mixing_layer import MixingLayer
from .scripting import NotScriptable

_ELEMENTS = 1 << 22  # elements of unfolded input at a time: 16 MiB in float32


@torch.no_grad()
def merge_branches(layer: MixingLayer, norm: _BatchNorm | None = None) -> nn.Module:
    """Merge an ``XVolution`` and the normalisation after it into one convolution; see ``XVolution.fuse``."""
    content, static = layer.attention.weight, layer.conv.weight
    scale, bias = scale_and_shift(norm, static)
    if layer.bias is not None:
        bias = bias + scale * layer.bias
    factors = []
    for branch_norm in (layer.attention_norm, layer.conv_norm):
        factor, shift = scale_and_shift(branch_norm, static)
        factors.append((scale * factor).view(-1, 1, 1))
        bias = bias + scale * shift
    # Both become (out, offsets, in / groups).
    content = factors[0] * content.view(len(content), len(layer.offsets), -1)
    static = factors[1] * static.flatten(2).transpose(1, 2)
    taps = kernel_offsets(layer.kernel_size[0], layer.dilation[0])
    if layer.relations and content.any():
        return FusedXVolution(layer, content, static, taps, bias)
    return _static_conv(layer, [*layer.offsets, *taps], torch.cat((content, static), 1), bias)


class FusedXVolution(ConvSignature, NotScriptable, nn.Module):
    """One convolution, whose kernel at pixel p and offset i is ``content_i diag(x(p)) + static_i``.

    Args:
        layer: The ``mmacmix.layers.XVolution`` to replace.
        content: ``(out, offsets, in / groups)``.
        static: ``(out, taps, in / groups)``.
        taps: Offsets of the static part's taps.
        bias: ``(out,)``.
    """

    has_groups = True

    def __init__(
        self, layer: MixingLayer, content: Tensor, static: Tensor, taps: list[tuple[int, int]], bias: Tensor
    ) -> None:
        names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups')
        super().__init__(*(getattr(layer, name) for name in names))
        self.offsets, self.taps = layer.offsets, taps
        self.kernel = nn.Parameter(torch.cat((content, static), 1))
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """As ``mmacmix.layers.XVolution``."""
        self.check_input(x)
        stride = self.stride[0]
        maps = [x[:, :, ::stride, ::stride], *shifted(x, [*self.offsets, *self.taps], stride)]
        height, width = maps[0].shape[2:]
        at_once = is_exporting() or not x.numel()
        rows = height if at_once else max(1, _ELEMENTS // (len(maps) * x.shape[:2].numel() * width))
        if rows >= height:
            return self._convolve(*maps)
        chunks = zip(*(each.split(rows, 2) for each in maps), strict=True)
        return torch.cat([self._convolve(*chunk) for chunk in chunks], 2)

    def _convolve(self, centre: Tensor, *maps: Tensor) -> Tensor:
        """The output of some rows from their pixels and the shifted maps of both parts."""
        content, static = maps[: len(self.offsets)], maps[len(self.offsets) :]
        columns = stacked([*related(centre, content), *static], self.groups)
        return F.conv2d(columns, self.kernel.flatten(1)[..., None, None], self.bias, groups=self.groups)


def _static_conv(layer: MixingLayer, offsets: list[tuple[int, int]], weights: Tensor, bias: Tensor) -> nn.Conv2d:
    """A plain convolution from the weights ``(out, offsets, in / groups)`` of all offsets."""
    dilation = layer.dilation[0]
    reach = max(abs(step) // dilation for offset in offsets for step in offset)
    kernel = weights.new_zeros(len(weights), weights.shape[2], 2 * reach + 1, 2 * reach + 1)
    for (down, right), weight in zip(offsets, weights.unbind(1), strict=True):
        kernel[:, :, down // dilation + reach, right // dilation + reach] += weight
    return conv_with(kernel, bias, layer.stride[0], reach * dilation, dilation, layer.groups)
