"""The base class of all layers: a mixture of attention and convolution that reports its own cost and paths."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..ops import is_exporting


class Macs(NamedTuple):
    """Multiply-adds of an operator for one input, by part."""

    projections: int
    attention: int
    convolution: int


class MixingLayer(nn.Module):
    """A layer with an attention path and a convolution path; reports, benchmarks and tests rely on its methods."""

    #: Modules and parameters that both paths share, and those of the convolution path; the rest is the attention's.
    projections: tuple[str, ...] = ()
    convolution: tuple[str, ...] = ()
    has_attention = True

    def part_of(self, name: str) -> str:
        """The part that a state dict entry belongs to: ``'projections'``, ``'attention'`` or ``'convolution'``."""
        top = name.split('.')[0]
        if top in self.projections:
            return 'projections'
        return 'convolution' if top in self.convolution else 'attention'

    @staticmethod
    def recomputed(path: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``path(x)``, which keeps only ``x`` for backward and computes its intermediate maps again there.

        For a path whose intermediate maps are larger than its input and cheap to recompute.
        """
        if not torch.is_grad_enabled() or is_exporting():
            return path(x)
        return checkpoint(path, x, use_reentrant=False, preserve_rng_state=False)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What attention and convolution each contribute to the layer's output."""
        raise NotImplementedError

    def macs(self, shape: Sequence[int]) -> Macs:
        """Multiply-adds that the operator is defined by, independent of how a backend computes it.

        Projections, matrix products of the attention, the convolution path; normalisation, softmax and sums are not
        counted.

        Args:
            shape: Shape of the input.
        """
        raise NotImplementedError

    def attention_map(self, x: Tensor, relative_position: tuple[float, float]) -> Tensor:
        """The attention that one output pixel of the first image pays to each input pixel: ``(heads, H, W)``.

        The weights of a head sum to 1, except for what falls on padding. An attention's output is linear in the
        values, so its weights are the derivative of the output with respect to the values.

        Args:
            x: The layer's input.
            relative_position: Of the pixel, from the top and from the left, each from 0 to less than 1.
        """
        with torch.no_grad():
            values, attend = self.attention_of(x[:1])
        with torch.enable_grad():
            values = torch.zeros_like(values, requires_grad=True)
            out = attend(values)
            row, column = (int(share * side) for share, side in zip(relative_position, out.shape[3:], strict=True))
            return torch.autograd.grad(out[0, :, 0, row, column].sum(), values)[0][0, :, 0]

    def attention_of(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The layer's attention to an input, as a function of the values alone.

        Returns:
            Any values of the right shape, ``(B, heads, d, H, W)``, and the function, which maps them to
            ``(B, heads, d, h, w)``.
        """
        raise NotImplementedError

    def check_fusable(self) -> None:
        """Check that ``fuse`` gives a layer with equal outputs.

        Raises:
            ValueError: It would not.
        """

    def fuse(self, norm: _BatchNorm | None = None) -> nn.Module:
        """Merge what is linear, for inference.

        Args:
            norm: A batch normalisation after the layer, to be merged too, or None. Default: None.

        Returns:
            The module that replaces the layer and ``norm``, or this layer itself, in which nothing is merged.
        """
        return self
