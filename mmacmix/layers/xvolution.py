"""X-volution: a convolution whose kernel is partly learned and partly computed from the content (arXiv 2106.02253)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import ceil_div, check_integers, is_integer, kernel_offsets, related, shifted, stacked
from .arguments import check_multiple
from .conv_signature import ConvSignature
from .fused_xvolution import merge_branches
from .mixing_layer import Macs, MixingLayer
from .normalization import build_norm, is_mergeable

#: The offsets (down, right) from a pixel to its eight neighbours.
NEIGHBORS = tuple(offset for offset in kernel_offsets(3) if offset != (0, 0))


class XVolution(ConvSignature, MixingLayer):
    """A replacement for a ``k x k`` convolution, with its signature.

    The sum of two branches, each followed by its own normalisation: pixel shift self-attention
    (``mmacmix.ops.related``), a weighted sum of the products of each pixel with its neighbours, and a convolution. For
    inference ``fuse`` merges both into one convolution with the kernel ``w^A(x) + w^C``.

    A reconstruction from the paper's prose: no code and no further equations were found.

    Usable as ``conv_cfg=dict(type='XVolution')`` wherever MMCV's layers take one, and as ``dcn=dict(type='XVolution')``
    in the ResNet of MMDetection and MMSegmentation.

    Args:
        in_channels: Channels of the input; a multiple of ``groups``.
        out_channels: Channels of the output; a multiple of ``groups``.
        kernel_size: Side of the convolution's kernel, odd. Default: 3.
        stride: Output pixels are ``stride`` input pixels apart. Default: 1.
        padding: Only ``dilation * (kernel_size // 2)``, which keeps the size; None stands for it. Default: None.
        dilation: Spacing of the kernel's taps, and of the shifts. Default: 1.
        groups: Groups of channels in both branches. Default: 1.
        bias: Add a learned bias to the output. Default: False.
        shift_distance: Pixels that the map is shifted by, times ``dilation``; the paper's L. Default: 1.
        directions: Directions (down, right) of the shifts, each number -1, 0 or 1; ``(0, 0)`` is the pixel itself.
            Default: the eight neighbours.
        relations: Multiply the shifted maps with the map itself. If not, the branch is static, and fusing gives a
            plain convolution. Default: True.
        norm_cfg: Normalisation of the branches, see ``mmacmix.layers.normalization.build_norm``.
            Default: ``dict(type='BN')``.

    Raises:
        ValueError: A size is out of range, or two of them do not fit together.
    """

    convolution = ('conv', 'conv_norm')

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = False,
        shift_distance: int = 1,
        directions: Sequence[Sequence[int]] = NEIGHBORS,
        relations: bool = True,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        self.set_signature(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        check_multiple('groups', groups, in_channels=in_channels, out_channels=out_channels)
        check_integers(shift_distance=shift_distance)
        directions = _checked(directions)
        self.relations = relations
        distance = shift_distance * self.dilation[0]
        self.offsets = [(down * distance, right * distance) for down, right in directions]
        self.attention = nn.Conv2d(len(directions) * in_channels, out_channels, 1, groups=groups, bias=False)
        self.attention_norm = build_norm(norm_cfg, out_channels)
        self.conv = nn.Conv2d(
            in_channels, out_channels, self.kernel_size, self.stride, self.padding, self.dilation, groups, bias=False
        )
        self.conv_norm = build_norm(norm_cfg, out_channels)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: It has another shape.
        """
        self.check_input(x)
        attention, convolution = self.paths(x)
        out = attention + convolution
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention_norm(self.recomputed(self._attention, x)), self.conv_norm(self.conv(x))

    def _attention(self, x: Tensor) -> Tensor:
        maps = shifted(x, self.offsets, self.stride[0])
        if self.relations:
            maps = related(x, maps, self.stride[0])
        return self.attention(stacked(maps, self.groups))

    def attention_map(self, x: Tensor, relative_position: tuple[float, float]) -> Tensor:
        """The size of the content's kernel at the pixel p: for each offset i the norm of ``W_i diag(x(p))``, or of
        ``W_i`` without relations. A single map, without a softmax."""
        stride = self.stride[0]
        row, column = (
            int(share * ceil_div(side, stride)) * stride
            for share, side in zip(relative_position, x.shape[2:], strict=True)
        )
        kernel = self.attention.weight.view(self.groups, -1, len(self.offsets), self.in_channels // self.groups)
        if self.relations:
            kernel = kernel * x[0, :, row, column].view(self.groups, 1, 1, -1)
        sizes = x.new_zeros(1, *x.shape[2:])
        for (down, right), size in zip(self.offsets, kernel.square().sum((0, 1, 3)).sqrt(), strict=True):
            if 0 <= row + down < x.shape[2] and 0 <= column + right < x.shape[3]:
                sizes[0, row + down, column + right] = size
        return sizes

    def macs(self, shape: Sequence[int]) -> Macs:
        batch, _, height, width = shape
        outputs = batch * ceil_div(height, self.stride[0]) * ceil_div(width, self.stride[0])
        return Macs(0, self.attention.weight.numel() * outputs, self.conv.weight.numel() * outputs)

    def check_fusable(self) -> None:
        cannot = f'{type(self).__name__} cannot become one convolution exactly'
        if type(self) is not XVolution:
            raise ValueError(f'{cannot}: it is a subclass of XVolution, which may compute something else')
        for name in ('attention_norm', 'conv_norm'):
            norm = getattr(self, name)
            if not is_mergeable(norm):
                raise ValueError(
                    f'{cannot}: {name} is {norm}, not a batch normalisation with running statistics and without hooks'
                )
        for name in ('attention', 'conv'):
            conv = getattr(self, name)
            if type(conv) is not nn.Conv2d or conv.bias is not None or conv.padding_mode != 'zeros':
                raise ValueError(f'{cannot}: {name} is {conv}, not a convolution without bias that pads with zeros')
        if any(each._forward_hooks or each._forward_pre_hooks for each in (self, self.attention, self.conv)):
            raise ValueError(f'{cannot}: there are hooks on it or on its convolutions')

    def fuse(self, norm: _BatchNorm | None = None) -> nn.Module:
        """Merge both branches, and a normalisation after them, into one convolution.

        Returns:
            A ``torch.nn.Conv2d`` where no tap of the kernel depends on the content, else a
            ``mmacmix.layers.FusedXVolution``.
        """
        self.check_fusable()
        return merge_branches(self, norm)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, groups={self.groups}, offsets={self.offsets}, relations={self.relations}'


def _checked(directions: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """The directions as pairs.

    Raises:
        ValueError: They are not pairs of steps, or one of them occurs twice.
    """
    pairs = [tuple(each) for each in directions] if _are_pairs(directions) else []
    if not pairs or len(set(pairs)) < len(pairs):
        raise ValueError(f'directions must be different pairs of -1, 0 and 1, got {directions!r}')
    return pairs


def _are_pairs(directions: Sequence[Sequence[int]]) -> bool:
    return isinstance(directions, Sequence) and all(
        isinstance(each, Sequence) and len(each) == 2 and all(is_integer(step) and abs(step) <= 1 for step in each)
        for each in directions
    )
