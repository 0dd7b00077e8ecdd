"""The kernels' form of ACmix's attention path and of the sum of the paths equals the form in plain operations."""

import pytest
import torch

from mmacmix.ops import attention_path, functional, sum_paths
from tests.conftest import DEVICE, needs_torch

HEADS, CHANNELS = 2, 8


def random(*shape):
    return torch.randn(shape, dtype=torch.float64).to(DEVICE).requires_grad_()


def relative_errors(actual, expected):
    return [
        ((each - truth).abs().max() / truth.abs().max().clamp(min=1e-12)).item()
        for each, truth in zip(actual, expected, strict=True)
    ]


@needs_torch('2.4', 'the Triton backend')
@pytest.mark.parametrize('together', [True, False])
@pytest.mark.parametrize('has_rate', [True, False])
@pytest.mark.parametrize('stride', [1, 2])
def test_attention_in_kernels_equals_plain_operations(monkeypatch, together, has_rate, stride):
    monkeypatch.setattr(functional, 'available_backends', lambda device: ('tiles', 'triton', 'reference'))
    weight, bias = random(3 * HEADS, CHANNELS // HEADS, 5), random(3 * CHANNELS)
    x, position, position_bias, rate = random(2, 5, 5, 7), random(4, 2), random(4), random(1)
    grad = torch.randn(2, CHANNELS, -(-5 // stride), -(-7 // stride), dtype=torch.float64).to(DEVICE)

    def result(backend, dtype):
        leaves = [each.detach().to(dtype).requires_grad_() for each in (x, weight, bias, position, position_bias, rate)]
        x_, weight_, bias_, *terms = leaves
        weights = [weight_] if together else weight_.flatten(0, 1).split(CHANNELS)
        biases = [bias_] if together else bias_.split(CHANNELS)
        terms[-1] = terms[-1] if has_rate else None
        out, is_complete = attention_path(x_, weights, biases, *terms, HEADS, 3, stride, 1, backend)
        assert is_complete is (backend == 'tiles')
        if not is_complete:
            out = out + ((leaves[-1] if has_rate else 1) * bias_[2 * CHANNELS :]).view(-1, 1, 1)
        gradients = torch.autograd.grad(out, leaves[: None if has_rate else -1], grad.to(dtype))
        return [out, *gradients[:4], *gradients[5:]], gradients[4]

    actual, of_position_bias = result('triton', torch.float32)
    expected, _ = result('tiles', torch.float64)
    assert max(relative_errors(actual, expected)) <= 1e-5
    assert of_position_bias.abs().max() == 0


@needs_torch('2.4', 'the Triton backend')
@pytest.mark.parametrize('has_rate', [True, False])
@pytest.mark.parametrize('size, channels, kernel_size, stride, dilation', [
    ((7, 9), 6, 3, 1, 1), ((5, 6), 70, 3, 2, 1), ((9, 4), 8, 5, 1, 2), ((1, 1), 4, 3, 1, 1), ((6, 5), 4, 1, 2, 1),
])  # yapf: disable
def test_sum_in_a_kernel_equals_plain_operations(has_rate, size, channels, kernel_size, stride, dilation):
    x = random(2, 3, *size)
    outputs = [-(-side // stride) for side in size]
    maps = [random(2, channels, *outputs) for _ in range(2)]
    weights = [random(channels, kernel_size, kernel_size), random(channels), random(1)][: 3 if has_rate else 2]
    grad = torch.randn(maps[0].shape, dtype=torch.float64).to(DEVICE)

    def result(dtype, in_kernel):
        leaves = [each.detach().to(dtype).requires_grad_() for each in (*maps, *weights)]
        attention, convolution, taps, bias, *rate = leaves
        attention = attention.contiguous(memory_format=torch.channels_last)
        out = sum_paths(attention, convolution, taps, bias, *(rate or [None]), x, stride, dilation, in_kernel)
        return out, *torch.autograd.grad(out, leaves, grad.to(dtype))

    assert max(relative_errors(result(torch.float32, True), result(torch.float64, False))) <= 1e-5
