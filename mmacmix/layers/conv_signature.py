"""Layers that can replace a convolution."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..ops import check_integers, check_window

Size = int | Sequence[int]  # one number, or two equal ones

#: The arguments of a convolution.
CONV_ARGUMENTS = ('bias', 'dilation', 'groups', 'in_channels', 'kernel_size', 'out_channels', 'padding', 'stride')


class ConvSignature:
    """The arguments and attributes of a square ``torch.nn.Conv2d`` with "same" padding.

    A mixin, listed before the class of the module, which gets the remaining keyword arguments. ``out_channels=None``
    stands for ``in_channels``, which is all that the hosts' ResNet passes to its ``plugins``.

    Raises:
        ValueError: A size is out of range, or the padding would change the size of the map.
    """

    has_groups = False
    transposed = False  # read by mmcv's ConvModule, as is output_padding
    output_padding = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None,
        kernel_size: Size,
        stride: Size,
        padding: Size | None,
        dilation: Size,
        groups: int,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        out_channels = in_channels if out_channels is None else out_channels
        check_integers(in_channels=in_channels, out_channels=out_channels, groups=groups)
        kernel_size = self._side('kernel_size', kernel_size)
        stride, dilation = self._side('stride', stride), self._side('dilation', dilation)
        check_window(kernel_size, stride, dilation)
        same = kernel_size // 2 * dilation
        name = type(self).__name__
        if padding is not None and self._side('padding', padding) != same:
            raise ValueError(
                f'{name} has "same" padding: with kernel_size {kernel_size} and dilation {dilation}, padding '
                f'must be {same}, got {padding!r}'
            )
        if groups != 1 and not self.has_groups:
            raise ValueError(f'{name} has no groups: groups must be 1, got {groups!r}')
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = (kernel_size,) * 2, (stride,) * 2, (dilation,) * 2
        self.padding = (same, same)

    def _side(self, name: str, size: Size) -> int:
        if not isinstance(size, Sequence):
            return size
        if isinstance(size, str) or len(size) != 2 or size[0] != size[1]:
            raise ValueError(
                f'{type(self).__name__} is square: {name} must be one number or two equal ones, got {size!r}'
            )
        return size[0]

    def check_input(self, x: Tensor) -> None:
        """Raise ``TypeError`` unless ``x`` is a tensor, and ``ValueError`` unless it is a non-empty map."""
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise TypeError(f'{name} takes a tensor, got {type(x).__name__}')
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(f'{name} takes (B, {self.in_channels}, H, W), H and W at least 1, got {tuple(x.shape)}')

    def extra_repr(self) -> str:
        sizes = f'kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}'
        return f'{self.in_channels}, {self.out_channels}, {sizes}'
