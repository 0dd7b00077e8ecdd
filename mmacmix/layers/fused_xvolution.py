"""X-volution for inference: both branches as one convolution, whose kernel is ``w^A(x) + w^C``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import is_exporting, kernel_offsets, related, shifted, stacked
from .conv_signature import ConvSignature
from .mixing_layer import MixingLayer
from .normalization import scale_and_shift

_COLUMNS = 1 << 22  # numbers that the kernel is applied to at a time: 16 MiB in float32


def merge_branches(layer: MixingLayer, norm: _BatchNorm | None = None) -> nn.Module:
    """The convolution that both branches and the normalisation after them are; see ``XVolution.fuse``."""
    attention, static = layer.attention.weight.detach(), layer.conv.weight.detach()
    scale, shift = scale_and_shift(norm, static)
    if layer.bias is not None:
        shift = shift + scale * layer.bias.detach()
    factors = []
    for branch in (layer.attention_norm, layer.conv_norm):
        factor, summand = scale_and_shift(branch, static)
        factors.append((scale * factor).view(-1, 1, 1))
        shift = shift + scale * summand
    # (out, taps, in a group) both
    attention = factors[0] * attention.view(len(attention), len(layer.offsets), -1)
    static = factors[1] * static.flatten(2).transpose(1, 2)
    taps = kernel_offsets(layer.kernel_size[0], layer.dilation[0])
    if layer.relations and attention.any():
        return FusedXVolution(layer, attention, static, taps, shift)
    weights = *static.unbind(1), *attention.unbind(1)
    return _plain(layer, list(zip([*taps, *layer.offsets], weights, strict=True)), shift)


class FusedXVolution(ConvSignature, nn.Module):
    """One convolution whose kernel depends on the content: ``content_i diag(x(p)) + static_i`` at offset i of pixel p.

    Args:
        layer: The layer that it replaces.
        content: ``(out, offsets, in / groups)``.
        static: ``(out, taps, in / groups)``.
        taps: Offsets of the static part's taps.
        bias: ``(out,)``.
    """

    def __init__(
        self, layer: MixingLayer, content: Tensor, static: Tensor, taps: list[tuple[int, int]], bias: Tensor
    ) -> None:
        super().__init__()
        names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups')
        self.set_signature(*(getattr(layer, name) for name in names))
        self.offsets, self.taps = layer.offsets, taps
        self.kernel = nn.Parameter(torch.cat((content, static), 1))
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """As ``mmacmix.layers.XVolution``."""
        self.check_input(x)
        stride = self.stride[0]
        maps = [x[:, :, ::stride, ::stride], *shifted(x, [*self.offsets, *self.taps], stride)]
        height, width = maps[0].shape[2:]
        whole = is_exporting() or not x.numel()
        rows = height if whole else max(1, _COLUMNS // (len(maps) * x.shape[:2].numel() * width))
        if rows >= height:
            return self._of_rows(*maps)
        return torch.cat(
            [self._of_rows(*part) for part in zip(*(each.split(rows, 2) for each in maps), strict=True)], 2
        )

    def _of_rows(self, centre: Tensor, *maps: Tensor) -> Tensor:
        """The output of some rows, from their pixels and the maps shifted to them."""
        content, static = maps[: len(self.offsets)], maps[len(self.offsets) :]
        columns = stacked([*related(centre, content), *static], self.groups)
        return F.conv2d(columns, self.kernel.flatten(1)[..., None, None], self.bias, groups=self.groups)


def _plain(layer: MixingLayer, taps: list[tuple[tuple[int, int], Tensor]], bias: Tensor) -> nn.Conv2d:
    """A plain convolution from the offset and the weight ``(out, in / groups)`` of each tap of both branches."""
    dilation = layer.dilation[0]
    reach = max(abs(step) // dilation for offset, _ in taps for step in offset)
    conv = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        2 * reach + 1,
        layer.stride,
        reach * dilation,
        dilation,
        layer.groups,
        device=bias.device,
        dtype=bias.dtype,
    )
    kernel = torch.zeros_like(conv.weight)
    for offset, weight in taps:
        down, right = (step // dilation + reach for step in offset)
        kernel[:, :, down, right] += weight
    conv.weight, conv.bias = nn.Parameter(kernel), nn.Parameter(bias)
    return conv
