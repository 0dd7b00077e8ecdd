"""The check of the Triton kernels on a GPU: a small case of the ACmix layer, forward and backward."""

import math
from collections.abc import Iterator, Sequence
from itertools import count
from types import ModuleType

import torch
from torch import Tensor

from ...errors import first_line
from ..coordinates import coordinate_map
from ..shift_conv import border_bias
from ..sizes import ceil_div
from ..torch_versions import without_modes
from . import reference

# Largest error relative to the largest value; float32 may be computed in TF32.
_TOLERANCES = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_SIZE = 11, 19  # partial tiles

Window = tuple[int, int, int]  #: kernel size, stride, dilation


def failure_of(
    kernels: ModuleType, device: torch.device, dtype: torch.dtype, head_dim: int, window: Window
) -> str | None:
    """What is wrong with the kernels: the sentence of an exception or the largest error; None if nothing is.

    Args:
        kernels: The module ``triton_kernels``.
        device: Where they run.
        dtype: Of the maps.
        head_dim: Channels per head.
        window: Kernel size, stride and dilation.
    """
    # A checkpoint around the caller would recompute its block for every tensor that is saved here.
    keep = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    autocast = torch.autocast(device.type, enabled=False)
    try:
        with without_modes(), torch.inference_mode(False), torch.enable_grad(), autocast, keep:
            for results in (_results_of_attention, _results_of_sum):
                for name, actual, expected in results(kernels, device, dtype, head_dim, window):
                    # With a window of one pixel, some gradients are zero.
                    error = ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-3)).item()
                    if not error <= _TOLERANCES[dtype]:  # also if it is NaN
                        return f'the {name} of a small case has an error of {error:.1e}'
    except Exception as error:  # whatever a compiler, driver or GPU may raise
        return f'{type(error).__name__}: {first_line(error)}'
    return None


Results = Iterator[tuple[str, Tensor, Tensor]]  # name, by the kernels, by the reference


class _Numbers:
    """Fixed numbers from -1 to 1, so that no random state changes; each call gives others."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._phases = device, count(1)

    def of(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        angles = torch.arange(math.prod(shape), dtype=torch.float32, device=self._device) * 1.7 + next(self._phases)
        return torch.sin(angles * angles % 1000).view(*shape).to(dtype).requires_grad_()

    def maps(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """``(B, ..., H, W)`` in channels_last memory."""
        batch, *channels, height, width = shape
        pixels = self.of((batch, height, width, *channels), dtype).detach()
        return pixels.movedim((1, 2), (-2, -1)).requires_grad_()


def _results_of_attention(
    kernels: ModuleType, device: torch.device, dtype: torch.dtype, head_dim: int, window: Window
) -> Results:
    """The maps lie in memory as the layer's convolutions leave them. The terms are in float32, as under autocast."""
    numbers = _Numbers(device)
    few = [ceil_div(side, window[1]) for side in _SIZE]
    parts = [(3, _SIZE)] if few == list(_SIZE) else [(1, few), (2, _SIZE)]
    maps = [numbers.maps((1, number, 2, head_dim, *size), dtype) for number, size in parts]
    terms = [numbers.of((2, head_dim)), numbers.of((head_dim, 2)), numbers.of((1,))]

    def by_reference() -> Tensor:
        query, key, value = (part.float() for each in maps for part in each.unbind(1))
        query_bias, position, rate = terms
        query = query + query_bias[..., None, None]
        key = key - torch.einsum('dc,bcyx->bdyx', position, coordinate_map(key[:, 0]))[:, None]
        return rate * reference.neighborhood_attention(query, key, value, *window)

    outputs = kernels.attend_to_maps(maps, *window, *terms), by_reference()
    # Similar to the output, because the gradient of the rate, the sum of their product, would cancel otherwise.
    grad = numbers.maps((1, 2, head_dim, *few), dtype).detach()
    grad += (outputs[1] / outputs[1].abs().max()).detach()
    gradients = [torch.autograd.grad(output, [*maps, *terms], grad.to(output.dtype)) for output in outputs]
    names = 'query', 'key', 'value', 'query_bias', 'position', 'rate'
    of_parts = [
        [*(part for each in grads[: len(maps)] for part in each.unbind(1)), *grads[len(maps) :]] for grads in gradients
    ]
    yield 'output', *outputs
    yield from zip((f'gradient of {name}' for name in names), *of_parts, strict=True)


def _results_of_sum(
    kernels: ModuleType, device: torch.device, dtype: torch.dtype, head_dim: int, window: Window
) -> Results:
    from . import triton_sum

    numbers, (_, stride, dilation) = _Numbers(device), window
    few = [ceil_div(side, stride) for side in _SIZE]
    shape = 1, 2 * head_dim, *few
    inputs = [
        numbers.maps(shape, dtype), numbers.maps(shape, dtype), numbers.of((2 * head_dim, 3, 3), dtype),
        numbers.of((2 * head_dim,)), numbers.of((1,)),
    ]  # fmt: skip
    # Similar to the bias: the gradient of the rate is the sum of their product.
    grad = numbers.maps(shape, dtype).detach()
    grad += inputs[3].detach().view(-1, 1, 1)

    def by_reference() -> Tensor:
        attention, convolution, taps, bias, rate = (each.float() for each in inputs)
        of_taps = border_bias(taps, attention.new_empty(1, 1, *_SIZE), stride, dilation)
        return attention + convolution + of_taps + (rate * bias).view(-1, 1, 1)

    outputs = triton_sum.sum_paths(*inputs, _SIZE, stride, dilation), by_reference()
    gradients = [torch.autograd.grad(output, inputs, grad.to(output.dtype)) for output in outputs]
    names = 'attention', 'convolution', 'taps', 'bias', 'rate'
    yield 'sum of the paths', *outputs
    yield from zip((f'gradient of {name} in the sum of the paths' for name in names), *gradients, strict=True)
