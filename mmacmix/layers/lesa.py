"""LESA: locally enhanced self-attention (arXiv 2107.05637)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import (
    check_integers,
    content_statistics,
    position_logits,
    position_statistics,
    relative_attention,
    relative_positions,
)
from .arguments import check_multiple
from .conv_signature import ConvSignature, Size
from .mixing_layer import Macs, MixingLayer
from .normalization import build_norm


class LESA(ConvSignature, MixingLayer):
    """A replacement for a ``k x k`` convolution, with its signature.

    ``unary + gate * binary``: a convolution, self-attention between all pixels, and a gate for each channel of each
    pixel, which a small network computes from both terms.

    A reconstruction from the paper's description. Positions are relative, as in the published detection network, which
    takes square maps of a fixed size; here they are interpolated to the size of the map.

    Usable as ``conv_cfg=dict(type='LESA')`` wherever MMCV's layers take one, and as ``dcn=dict(type='LESA')`` or
    in ``plugins`` in the ResNet of MMDetection and MMSegmentation.

    Args:
        in_channels: Channels of the input; a multiple of ``num_heads``.
        out_channels: Channels of the output, a multiple of ``2 * num_heads``; None stands for ``in_channels``.
            Default: None.
        kernel_size: Side of the unary term's kernel, odd. Default: 3.
        stride: Side and stride of the average pooling of the output. Default: 1.
        padding: None or ``dilation * (kernel_size // 2)``, which keeps the size of the map. Default: None.
        dilation: Spacing of the kernel's taps. Default: 1.
        groups: Must be 1. Default: 1.
        bias: Add a learned bias to the output. Default: False.
        num_heads: Heads of the binary term, and groups of the unary term's convolution. Default: 8.
        position_size: Side of the map with learned relative positions; they are interpolated for other sizes.
            Default: 14.
        norm_cfg: Normalisation, see ``mmacmix.layers.normalization.build_norm``; the logits always have batch
            normalisation. Default: ``dict(type='BN')``.

    Raises:
        ValueError: A size is out of range, two sizes are incompatible, or an input has the wrong shape.
        TypeError: An input is not a tensor.
    """

    projections = ('projection',)
    convolution = ('unary',)

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | None = None,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        num_heads: int = 8,
        position_size: int = 14,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        out_channels = self.out_channels
        check_integers(num_heads=num_heads, position_size=position_size)
        check_multiple('num_heads', num_heads, in_channels=in_channels)
        check_multiple('2 * num_heads', 2 * num_heads, out_channels=out_channels)
        self.num_heads = num_heads
        key_dim = out_channels // (2 * num_heads)  # channels of query and key per head; values have twice as many

        self.unary = nn.Sequential(
            nn.Conv2d(
                in_channels, out_channels, self.kernel_size, 1, self.padding, self.dilation, num_heads, bias=False
            ),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
            build_norm(norm_cfg, out_channels),
        )
        self.projection = nn.Sequential(
            nn.Conv2d(in_channels, 2 * out_channels, 1, bias=False), build_norm(norm_cfg, 2 * out_channels)
        )
        self.row_positions, self.column_positions = (
            nn.Parameter(torch.randn(key_dim, 2 * position_size - 1) * key_dim**-0.5) for _ in range(2)
        )
        # One channel per head for the content logits, and one for the position logits. The softmax cancels a bias.
        self.logits_norm = nn.BatchNorm2d(2 * num_heads)
        self.logits_norm.register_parameter('bias', None)
        self.binary_norm = build_norm(norm_cfg, out_channels)
        self.gate = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(2 * out_channels, out_channels, 1, bias=False),
            build_norm(norm_cfg, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
            build_norm(norm_cfg, out_channels),
            nn.Sigmoid(),
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
        self.check_input(x)
        attention, convolution = self._terms(x)
        out = self._pooled(attention + convolution)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(self._pooled(term) for term in self._terms(x))

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``gate * binary`` and ``unary``."""
        unary, binary = self.unary(x), self.binary_norm(self._attention(x))
        return self.gate(torch.cat((unary, binary), 1)) * binary, unary

    def _pooled(self, out: Tensor) -> Tensor:
        return out if self.stride[0] == 1 else F.avg_pool2d(out, self.stride, ceil_mode=True)

    def _attention(self, x: Tensor) -> Tensor:
        return relative_attention(*self._project(x)).flatten(1, 2)  # channel h * head_dim + d

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Scaled query, key, value, and scaled logits of rows and columns; the scales normalise the logits."""
        projected = self.projection(x).unflatten(1, (self.num_heads, -1))
        key_dim = len(self.row_positions)
        query, key, value = projected.split((key_dim, key_dim, 2 * key_dim), 2)
        tables = zip((self.row_positions, self.column_positions), x.shape[2:], strict=True)
        vectors = (relative_positions(table, side).to(query) for table, side in tables)
        rows, columns = position_logits(query, *vectors)
        content_scale, position_scale = (
            scale.view(-1, 1, 1, 1).to(query) for scale in self._logit_scales(query, key, rows, columns)
        )
        return query * content_scale, key, value, rows * position_scale, columns * position_scale

    def _logit_scales(self, query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The scales per head that batch normalisation applies to the content logits and to the position logits."""
        norm = self.logits_norm
        variance = norm.running_var
        if norm.training and len(query):
            precise = torch.promote_types(query.dtype, torch.float32)
            with torch.autocast(query.device.type, enabled=False):
                query, key, rows, columns = (each.to(precise) for each in (query, key, rows, columns))
                statistics = content_statistics(query, key), position_statistics(rows, columns)
            mean, variance = (torch.cat(each) for each in zip(*statistics, strict=True))
            _update(norm, mean, variance, count=len(query) * query.shape[3:].numel() ** 2)
        return ((variance + norm.eps).rsqrt() * norm.weight).chunk(2)

    def attention_of(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        query, key, value, rows, columns = self._project(x)
        return value, lambda value: relative_attention(query, key, value, rows, columns)

    def macs(self, shape: Sequence[int]) -> Macs:
        batch, _, height, width = shape
        pixels, channels = height * width, self.out_channels
        weights = {
            name: sum(module.weight.numel() for module in getattr(self, name) if isinstance(module, nn.Conv2d))
            for name in ('projection', 'unary', 'gate')
        }
        logits = channels // 2 * (pixels + height + width)  # per query: all keys, rows and columns
        attention = logits + channels * pixels + weights['gate']
        return Macs(*(batch * pixels * part for part in (weights['projection'], attention, weights['unary'])))

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, num_heads={self.num_heads}'


@torch.no_grad()
def _update(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running statistics of a batch normalisation from those of ``count`` elements per channel."""
    norm.num_batches_tracked += 1
    momentum = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
    norm.running_var.lerp_((variance * count / max(1, count - 1)).to(norm.running_var), momentum)
