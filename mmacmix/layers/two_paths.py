"""The base class of all forms of ACmix: two paths and their rates."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import register_load_state_dict_pre_hook
from .arguments import is_number
from .mixing_layer import MixingLayer


class TwoPaths(MixingLayer):
    """``attention_rate * attention + conv_rate * convolution`` (arXiv 2111.14556, section 4.2, equation 14).

    Args:
        rates: The rates of attention and convolution, or their initial values. Default: ``(0.5, 0.5)``.
        learn_rates: Learn the rates. Fixed rates are not in the state dict, and a path whose fixed rate is 0 is left
            out: ``(1, 0)`` is pure attention, ``(0, 1)`` pure convolution. Checkpoints of the full layer still load.
            Default: True.
        shift_form: ``form`` of the convolution path, see ``mmacmix.layers.ShiftConv``. Default: ``'group'``.

    Raises:
        ValueError: ``rates`` are not two numbers, or both paths would be left out.
    """

    projections = ('query', 'key', 'value')  # stage I of the paper
    convolution = ('shift_conv', 'conv_rate')
    attention_rate: Tensor
    conv_rate: Tensor

    def __init__(
        self, rates: Sequence[float] = (0.5, 0.5), learn_rates: bool = True, shift_form: str = 'group'
    ) -> None:
        super().__init__()
        if not isinstance(rates, Sequence) or len(rates) != 2 or not all(map(is_number, rates)):
            raise ValueError(f'rates must be two numbers, those of attention and convolution, got {rates!r}')
        if not (learn_rates or any(rates)):
            raise ValueError(f'fixed rates must not both be 0, got {rates}')
        self.learn_rates, self.shift_form = learn_rates, shift_form
        self.has_attention, self.has_convolution = (learn_rates or rate != 0 for rate in rates)
        for name, rate in zip(('attention_rate', 'conv_rate'), rates, strict=True):
            value = torch.full((1,), float(rate))
            if learn_rates:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value, persistent=False)
        register_load_state_dict_pre_hook(self, _drop_absent)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The contributions of attention and convolution: its outputs without bias and with the other rate set to 0."""
        no_bias = {} if getattr(self, 'bias', None) is None else dict(bias=torch.zeros_like(self.bias))
        return tuple(
            torch.func.functional_call(self, {rate: torch.zeros_like(getattr(self, rate)), **no_bias}, (x,))
            for rate in ('conv_rate', 'attention_rate')
        )


def _drop_absent(layer: TwoPaths, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Let a layer with fixed rates, or without a path, load a checkpoint of the full layer."""
    if layer.learn_rates:
        return
    absent = {part for part in ('attention', 'convolution') if not getattr(layer, f'has_{part}')}
    own = layer.state_dict()
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name in ('attention_rate', 'conv_rate') or (name not in own and layer.part_of(name) in absent):
            del state_dict[key]
