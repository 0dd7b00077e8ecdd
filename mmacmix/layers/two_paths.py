"""What ACmix is in every layer: two paths and their rates."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import is_exporting, is_number


class MultiplyAdds(NamedTuple):
    """What an operator computes for one input, by part."""

    projections: int
    attention: int
    convolution: int


class TwoPaths(BaseModule):
    """``attention_rate * attention + conv_rate * convolution`` (section 4.2, equation 14).

    Args:
        rates: What the rates of attention and convolution are, or start from. Default: ``(0.5, 0.5)``.
        learn_rates: Learn the rates. Those that are not learned are no part of the state dict, and a path of rate 0
            that is not learned is left out: ``(1, 0)`` is attention alone, ``(0, 1)`` convolution alone. A checkpoint
            with more than that still fits. Default: True.
        init_cfg: MMEngine initialisation. Default: None.

    Raises:
        ValueError: There are not two rates, or both paths would be left out.
    """

    #: Modules of stage I, which both paths share.
    projections = ('query', 'key', 'value')
    attention_rate: Tensor
    conv_rate: Tensor

    def __init__(
        self, rates: Sequence[float] = (0.5, 0.5), learn_rates: bool = True, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        if not isinstance(rates, Sequence) or len(rates) != 2 or not all(map(is_number, rates)):
            raise ValueError(f'rates must be two numbers, those of attention and convolution, got {rates!r}')
        if not (learn_rates or any(rates)):
            raise ValueError(f'rates that are fixed must not both be 0, got {rates}')
        self.learn_rates = learn_rates
        self.has_attention, self.has_convolution = (learn_rates or rate != 0 for rate in rates)
        for name, rate in zip(('attention_rate', 'conv_rate'), rates, strict=True):
            value = torch.full((1,), float(rate))
            if learn_rates:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value, persistent=False)
        self.register_load_state_dict_pre_hook(_leave_out)

    def part_of(self, name: str) -> str:
        """``'projections'``, ``'attention'`` or ``'convolution'``: what an entry of the state dict belongs to."""
        top = name.split('.')[0]
        if top in self.projections:
            return 'projections'
        return 'convolution' if top in ('shift_conv', 'conv_rate') else 'attention'

    @staticmethod
    def recomputed(path: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``path(x)``, of which nothing but ``x`` is kept for backward: the rest is computed again then.

        For a convolution path, whose features and merged weights are larger than its input and cheap to have again.
        """
        if not torch.is_grad_enabled() or is_exporting():
            return path(x)
        return checkpoint(path, x, use_reentrant=False, preserve_rng_state=False)

    def attention_map(self, x: Tensor, place: tuple[float, float]) -> Tensor:
        """Where one pixel of the first image looks: ``(heads, H, W)``, what its attention gives to the input's pixels.

        The weights of a head add up to 1, as far as none lie on padding; patchwise attention, which has groups of
        channels instead of heads, has no softmax.

        Args:
            x: The layer's input.
            place: Of the pixel, from the top and from the left, as shares of height and width.
        """
        raise NotImplementedError

    def multiply_adds(self, shape: Sequence[int]) -> MultiplyAdds:
        """Multiplications with an addition that the operator asks for, whichever way a backend goes about it.

        Projections, matrix products of the attention, both steps of the convolution path; normalisation, softmax and
        sums are not counted.

        Args:
            shape: Shape of the input.
        """
        raise NotImplementedError


def _leave_out(layer: TwoPaths, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """A checkpoint of the whole operator fits one with fixed rates, or with a path left out."""
    if layer.learn_rates:
        return
    absent = {part for part in ('attention', 'convolution') if not getattr(layer, f'has_{part}')}
    own = layer.state_dict()
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name in ('attention_rate', 'conv_rate') or (name not in own and layer.part_of(name) in absent):
            del state_dict[key]
