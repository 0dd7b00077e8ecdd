"""What every layer of this package is: a mixture of attention and convolution, which tells of itself."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops import is_exporting


class MultiplyAdds(NamedTuple):
    """What an operator computes for one input, by part."""

    projections: int
    attention: int
    convolution: int


class MixingLayer(BaseModule):
    """A layer with an attention path and a convolution path. Reports, benchmarks and tests ask it what is here."""

    #: Modules and parameters that both paths share, and those of the convolution path; all others are the attention's.
    projections: tuple[str, ...] = ()
    convolution: tuple[str, ...] = ()
    has_attention = True

    def part_of(self, name: str) -> str:
        """``'projections'``, ``'attention'`` or ``'convolution'``: what an entry of the state dict belongs to."""
        top = name.split('.')[0]
        if top in self.projections:
            return 'projections'
        return 'convolution' if top in self.convolution else 'attention'

    @staticmethod
    def recomputed(path: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``path(x)``, of which nothing but ``x`` is kept for backward: the rest is computed again then.

        For a path whose features are larger than its input and cheap to have again.
        """
        if not torch.is_grad_enabled() or is_exporting():
            return path(x)
        return checkpoint(path, x, use_reentrant=False, preserve_rng_state=False)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What attention and convolution add to the layer's output."""
        raise NotImplementedError

    def attention_map(self, x: Tensor, place: tuple[float, float]) -> Tensor:
        """Where one pixel of the first image looks: ``(heads, H, W)``, what its attention gives to the input's pixels.

        The weights of a head add up to 1, as far as none lie on padding. Patchwise attention, which has groups of
        channels instead of heads, and pixel shift attention, which has one map, have no softmax.

        Args:
            x: The layer's input.
            place: Of the pixel, from the top and from the left, as shares of height and width.
        """
        raise NotImplementedError

    def multiply_adds(self, shape: Sequence[int]) -> MultiplyAdds:
        """Multiplications with an addition that the operator asks for, whichever way a backend goes about it.

        Projections, matrix products of the attention, the convolution path; normalisation, softmax and sums are not
        counted.

        Args:
            shape: Shape of the input.
        """
        raise NotImplementedError
