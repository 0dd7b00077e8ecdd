"""Layers that can replace a convolution."""

from collections.abc import Sequence

from torch import Tensor

from ..ops import check_integers, check_window


class ConvSignature:
    """The attributes of a square ``torch.nn.Conv2d`` whose padding keeps the size of the map, divided by the stride."""

    transposed = False  # mmcv's ConvModule reads these two
    output_padding = 0

    def set_signature(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int] | None,
        dilation: int | Sequence[int],
        groups: int,
    ) -> None:
        """Check a convolution's arguments and set its attributes.

        Raises:
            ValueError: A size is out of range, or the padding would change the size of the map.
        """
        check_integers(in_channels=in_channels, out_channels=out_channels, groups=groups)
        kernel_size, stride, dilation = (
            self._square(name, value)
            for name, value in (('kernel_size', kernel_size), ('stride', stride), ('dilation', dilation))
        )
        check_window(kernel_size, stride, dilation)
        same = kernel_size // 2 * dilation
        if padding is not None and self._square('padding', padding) != same:
            raise ValueError(
                f'{type(self).__name__} keeps the size of its input: with kernel_size {kernel_size} and dilation '
                f'{dilation} padding must be {same}, got {padding!r}'
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = (kernel_size,) * 2, (stride,) * 2, (dilation,) * 2
        self.padding = (same, same)

    def _square(self, name: str, value: int | Sequence[int]) -> int:
        """The number given as one int or as a pair of equal ints."""
        if not isinstance(value, Sequence):
            return value
        if isinstance(value, str) or len(value) != 2 or value[0] != value[1]:
            raise ValueError(
                f'{type(self).__name__} is square: {name} must be one number or two equal ones, got {value!r}'
            )
        return value[0]

    def check_groups(self) -> None:
        """Check that ``groups`` is 1.

        Raises:
            ValueError: It is not.
        """
        if self.groups != 1:
            raise ValueError(f'{type(self).__name__} has no groups: groups must be 1, got {self.groups!r}')

    def check_input(self, x: Tensor) -> None:
        """Check the input of ``forward``.

        Raises:
            TypeError: It is not a tensor.
            ValueError: It is not ``(B, in_channels, H, W)``, or has no pixels.
        """
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise TypeError(f'{name} takes a tensor, got {type(x).__name__}')
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(f'{name} takes (B, {self.in_channels}, H, W), H and W at least 1, got {tuple(x.shape)}')

    def extra_repr(self) -> str:
        return (
            f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, '
            f'dilation={self.dilation}'
        )
