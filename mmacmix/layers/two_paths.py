"""What ACmix is in every layer: two paths and their rates."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn


class MultiplyAdds(NamedTuple):
    """What an operator computes for one input, by part."""

    projections: int
    attention: int
    convolution: int


class TwoPaths(BaseModule):
    """``attention_rate * attention + conv_rate * convolution`` (section 4.2, equation 14).

    Args:
        rates: What the rates of attention and convolution are, or start from. Default: ``(0.5, 0.5)``.
        learn_rates: Learn the rates. Those that are not learned are buffers, and a path of rate 0 that is not learned
            is left out: ``(1, 0)`` is attention alone, ``(0, 1)`` convolution alone. Default: True.
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
        if len(rates) != 2 or not (learn_rates or any(rates)):
            raise ValueError(f'rates must be those of attention and convolution, not both fixed at 0, got {rates}')
        self.has_attention, self.has_convolution = (learn_rates or rate != 0 for rate in rates)
        for name, rate in zip(('attention_rate', 'conv_rate'), rates, strict=True):
            value = torch.full((1,), float(rate))
            if learn_rates:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def multiply_adds(self, shape: Sequence[int]) -> MultiplyAdds:
        """Multiplications with an addition that the operator asks for, whichever way a backend goes about it.

        Projections, matrix products of the attention, both steps of the convolution path; normalisation, softmax and
        sums are not counted.

        Args:
            shape: Shape of the input.
        """
        raise NotImplementedError
