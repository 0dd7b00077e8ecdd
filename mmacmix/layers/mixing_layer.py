"""The base class of all layers: attention and convolution, and reports of cost, paths and attention maps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..ops import is_exporting, is_transforming
from .scripting import NotScriptable


class Macs(NamedTuple):
    """Multiply-adds of an operator for one input, by part."""

    projections: int
    attention: int
    convolution: int


class MixingLayer(NotScriptable, nn.Module):
    """A layer with an attention path and a convolution path."""

    projections: tuple[str, ...] = ()  #: Names of submodules and parameters that both paths share.
    convolution: tuple[str, ...] = ()  #: Names of those of the convolution path; all others are the attention's.
    has_attention = True

    def part_of(self, name: str) -> str:
        """The part that a state dict entry belongs to: ``'projections'``, ``'attention'`` or ``'convolution'``."""
        top = name.split('.')[0]
        if top in self.projections:
            return 'projections'
        return 'convolution' if top in self.convolution else 'attention'

    @staticmethod
    def recomputed(path: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``path(x)``, whose intermediate maps are recomputed in the backward pass instead of stored.

        For paths with intermediate maps that are larger than ``x`` and cheap to compute.
        """
        if not torch.is_grad_enabled() or is_exporting() or is_transforming():  # torch.func allows no checkpoints
            return path(x)
        return checkpoint(path, x, use_reentrant=False, preserve_rng_state=False)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The contributions of attention and convolution to the layer's output."""
        raise NotImplementedError

    def macs(self, shape: Sequence[int]) -> Macs:
        """Multiply-adds in the operator's definition, whatever the backend.

        Counted are projections, matrix products of the attention, and the convolution path; normalisation, softmax and
        sums are not.

        Args:
            shape: Shape of the input.
        """
        raise NotImplementedError

    def attention_map(self, x: Tensor, relative_position: tuple[float, float]) -> Tensor:
        """The attention weights of one output pixel of the first image: ``(heads, H, W)``.

        Attention is linear in the values, so the weights are the derivative of its output with respect to the values.
        With a softmax, they sum to 1 in each head, less the weights of padded pixels.

        Args:
            x: The layer's input.
            relative_position: Position of the output pixel from the top and from the left, each from 0 to less than 1.
        """
        with torch.no_grad():
            values, attend = self.attention_of(x[:1])
        with torch.enable_grad():
            values = torch.zeros_like(values, requires_grad=True)
            out = attend(values)
            row, column = (int(share * side) for share, side in zip(relative_position, out.shape[3:], strict=True))
            return torch.autograd.grad(out[0, :, 0, row, column].sum(), values)[0][0, :, 0]

    def attention_of(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The attention to ``x`` as a function of the values alone.

        Returns:
            A tensor with the values' shape ``(B, heads, d, H, W)``, dtype and device, whose numbers are irrelevant; and
            the function, from values to outputs ``(B, heads, d, h, w)``.
        """
        raise NotImplementedError

    def check_fusable(self) -> None:
        """Raise ``ValueError`` if ``fuse`` cannot preserve the layer's outputs."""

    def fuse(self, norm: _BatchNorm | None = None, dense: bool | None = None) -> nn.Module:
        """Merge linear operations for inference.

        Args:
            norm: A batch normalisation after the layer to merge as well, or None. Default: None.
            dense: See ``mmacmix.deploy.fuse``. Default: None.

        Returns:
            The replacement of the layer and ``norm``, or the unchanged layer, which leaves ``norm`` in place.
        """
        return self
