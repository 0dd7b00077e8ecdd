"""X-volution: a convolution whose kernel is learned in part and made by the content in part (arXiv 2106.02253)."""

from collections.abc import Sequence

import torch
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops import check_integers, check_multiple, is_integer, kernel_offsets, related, shifted, stacked
from .conv_signature import ConvSignature
from .mixing_layer import MixingLayer, MultiplyAdds

#: From a pixel to its eight neighbours: steps down and to the right.
NEIGHBORS = tuple(offset for offset in kernel_offsets(3) if offset != (0, 0))


@MODELS.register_module()
class XVolution(ConvSignature, MixingLayer):
    """Stands wherever a ``k x k`` convolution stands, and has a convolution's signature.

    Two branches see the same map, each with its own normalisation behind, and are added: pixel shift self-attention
    (``mmacmix.ops.related``), a weighted sum of the products of each pixel with its neighbours, and a convolution. In
    evaluation ``mmacmix.deploy.fuse`` merges both into one convolution with the kernel ``w^A(x) + w^C``.

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
        groups: Groups of channels, in both branches. Default: 1.
        bias: Add a learned bias to the output. Default: False.
        shift_distance: Pixels that the map is shifted by, times ``dilation``; the paper's L. Default: 1.
        directions: Steps down and to the right, each -1, 0 or 1; ``(0, 0)`` is the pixel itself.
            Default: its eight neighbours.
        relations: Multiply the shifted maps with the map itself. Without, the branch is static, and fusing gives a
            plain convolution. Default: True.
        norm_cfg: Normalisation of the branches. Default: ``dict(type='BN')``.
        init_cfg: MMEngine initialisation. Default: None.

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
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.set_signature(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        check_multiple('groups', groups, in_channels=in_channels, out_channels=out_channels)
        check_integers(shift_distance=shift_distance)
        directions = _checked(directions)
        self.relations = relations
        distance = shift_distance * self.dilation[0]
        self.offsets = [(down * distance, right * distance) for down, right in directions]
        self.attention = nn.Conv2d(len(directions) * in_channels, out_channels, 1, groups=groups, bias=False)
        self.attention_norm = build_norm_layer(norm_cfg, out_channels)[1]
        self.conv = nn.Conv2d(
            in_channels, out_channels, self.kernel_size, self.stride, self.padding, self.dilation, groups, bias=False
        )
        self.conv_norm = build_norm_layer(norm_cfg, out_channels)[1]
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

    def attention_map(self, x: Tensor, place: tuple[float, float]) -> Tensor:
        """The size of the content's kernel: the norm of ``W_i diag(x(p))``, or of ``W_i``, at each offset ``i``."""
        pixel = [int(share * -(-side // self.stride[0])) for share, side in zip(place, x.shape[2:], strict=True)]
        row, column = (at * self.stride[0] for at in pixel)
        kernel = self.attention.weight.view(self.groups, -1, len(self.offsets), self.in_channels // self.groups)
        if self.relations:
            kernel = kernel * x[0, :, row, column].view(self.groups, 1, 1, -1)
        whole = x.new_zeros(1, *x.shape[2:])
        for (down, right), size in zip(self.offsets, kernel.square().sum((0, 1, 3)).sqrt(), strict=True):
            if 0 <= row + down < x.shape[2] and 0 <= column + right < x.shape[3]:
                whole[0, row + down, column + right] = size
        return whole

    def multiply_adds(self, shape: Sequence[int]) -> MultiplyAdds:
        batch, _, height, width = shape
        outputs = batch * -(-height // self.stride[0]) * -(-width // self.stride[0])
        return MultiplyAdds(0, self.attention.weight.numel() * outputs, self.conv.weight.numel() * outputs)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, groups={self.groups}, offsets={self.offsets}, relations={self.relations}'


def _checked(directions: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Directions as pairs.

    Raises:
        ValueError: They are something else, or one of them comes twice.
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
