"""What ACmix is in every layer: two paths and their rates."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import is_number
from .mixing_layer import MixingLayer


class TwoPaths(MixingLayer):
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

    projections = ('query', 'key', 'value')  # of stage I
    convolution = ('shift_conv', 'conv_rate')
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

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What attention and convolution add to the layer's output, by running it without the other one."""
        none = {} if getattr(self, 'bias', None) is None else dict(bias=torch.zeros_like(self.bias))
        return tuple(
            torch.func.functional_call(self, {rate: torch.zeros_like(getattr(self, rate)), **none}, (x,))
            for rate in ('conv_rate', 'attention_rate')
        )


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
