"""X-volution: a convolution whose kernel partly depends on the content (arXiv 2106.02253)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import ceil_div, check_integers, is_integer, kernel_offsets, related, shifted, stacked
from .arguments import check_multiple
from .conv_signature import ConvSignature, Size
from .fused_xvolution import merge_branches
from .merging import has_hooks, is_mergeable
from .mixing_layer import Macs, MixingLayer
from .normalization import build_norm

#: The offsets (down, right) from a pixel to its eight neighbours.
NEIGHBORS = tuple(offset for offset in kernel_offsets(3) if offset != (0, 0))


class XVolution(ConvSignature, MixingLayer):
    """A replacement for a ``k x k`` convolution, with its signature.

    The sum of two branches, each with its own normalisation: pixel shift self-attention (``mmacmix.ops.related``), a
    weighted sum of the products of each pixel with its neighbours, and a convolution. For inference, ``fuse`` merges
    both into one convolution with the kernel ``w^A(x) + w^C``.

    A reconstruction from the paper's prose: neither code nor further equations were found.

    Usable as ``conv_cfg=dict(type='XVolution')`` wherever MMCV's layers take one, and as ``dcn=dict(type='XVolution')``
    or in ``plugins`` in the ResNet of MMDetection and MMSegmentation.

    Args:
        in_channels: Channels of the input; a multiple of ``groups``.
        out_channels: Channels of the output, a multiple of ``groups``; None stands for ``in_channels``. Default: None.
        kernel_size: Side of the convolution's kernel, odd. Default: 3.
        stride: Distance between output pixels in input pixels. Default: 1.
        padding: None or ``dilation * (kernel_size // 2)``, which keeps the size of the map. Default: None.
        dilation: Spacing of the kernel's taps, and of the shifts. Default: 1.
        groups: Groups of channels in both branches. Default: 1.
        bias: Add a learned bias to the output. Default: False.
        shift_distance: Distance of the shifts in pixels, multiplied by ``dilation``; the paper's L. Default: 1.
        directions: Directions (down, right) of the shifts, each number -1, 0 or 1; ``(0, 0)`` is the pixel itself.
            Default: the eight neighbours.
        relations: Multiply the shifted maps by the map itself. Otherwise the branch is static, and ``fuse`` gives a
            plain convolution. Default: True.
        norm_cfg: Normalisation of the branches, see ``mmacmix.layers.normalization.build_norm``.
            Default: ``dict(type='BN')``.

    Raises:
        ValueError: A size is out of range, two sizes are incompatible, or an input has the wrong shape.
        TypeError: An input is not a tensor.
    """

    _abbr_ = 'xvolution'  # the name that MMCV gives to plugins
    convolution = ('conv', 'conv_norm')
    has_groups = True

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
        shift_distance: int = 1,
        directions: Sequence[Sequence[int]] = NEIGHBORS,
        relations: bool = True,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        out_channels = self.out_channels
        check_multiple('groups', groups, in_channels=in_channels, out_channels=out_channels)
        check_integers(shift_distance=shift_distance)
        _check_directions(directions)
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
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
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
        """The norm of the attention branch's kernel at each offset i of the pixel p, as a single map.

        The kernel is ``W_i diag(x(p))``, or ``W_i`` without relations; there is no softmax.
        """
        stride = self.stride[0]
        row, column = (
            int(share * ceil_div(side, stride)) * stride
            for share, side in zip(relative_position, x.shape[2:], strict=True)
        )
        kernel = self.attention.weight.view(self.groups, -1, len(self.offsets), self.in_channels // self.groups)
        if self.relations:
            kernel = kernel * x[0, :, row, column].view(self.groups, 1, 1, -1)
        norms = x.new_zeros(1, *x.shape[2:])
        for (down, right), norm in zip(self.offsets, kernel.square().sum((0, 1, 3)).sqrt(), strict=True):
            if 0 <= row + down < x.shape[2] and 0 <= column + right < x.shape[3]:
                norms[0, row + down, column + right] = norm
        return norms

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
        if any(map(has_hooks, (self, self.attention, self.conv))):
            raise ValueError(f'{cannot}: there are hooks on it or on its convolutions')

    def fuse(self, norm: _BatchNorm | None = None, dense: bool | None = None) -> nn.Module:
        """Merge both branches, and a normalisation after them, into one convolution.

        Returns:
            A ``torch.nn.Conv2d`` if the kernel does not depend on the content, else a
            ``mmacmix.layers.FusedXVolution``.

        Raises:
            ValueError: The branches cannot be merged exactly, see ``check_fusable``.
        """
        self.check_fusable()
        return merge_branches(self, norm)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, groups={self.groups}, offsets={self.offsets}, relations={self.relations}'


def _check_directions(directions: Sequence[Sequence[int]]) -> None:
    are_pairs = isinstance(directions, Sequence) and all(
        isinstance(pair, Sequence) and len(pair) == 2 and all(is_integer(step) and abs(step) <= 1 for step in pair)
        for pair in directions
    )
    if not are_pairs or not directions or len(set(map(tuple, directions))) < len(directions):
        raise ValueError(f'directions must be different pairs of -1, 0 and 1, got {directions!r}')
