"""The kernels' form of ACmix's attention path and of the sum of the paths equals the form in plain operations."""

from types import SimpleNamespace

import pytest
import torch

from mmacmix.layers import ACmix
from mmacmix.ops import acmix, attention_path, functional, sum_paths
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


@needs_torch('2.4', 'the Triton backend')
def test_an_empty_batch_stays_in_the_graph_without_a_launch(monkeypatch):
    from mmacmix.ops.backends import triton_kernels

    def launch(*_):
        raise AssertionError('CUDA refuses launches of no programs')

    monkeypatch.setattr(functional, 'available_backends', lambda device: ('triton', 'tiles', 'reference'))
    monkeypatch.setattr(triton_kernels, '_launch', launch)
    layer = ACmix(4, 8, num_heads=2, attention_kernel_size=3, backend='triton').to(DEVICE)
    x = torch.rand(0, 4, 5, 6, device=DEVICE, requires_grad=True)
    out = layer(x)
    assert out.shape == (0, 8, 5, 6)
    out.sum().backward()
    assert all(each.grad is not None and not each.grad.any() for each in (x, *layer.parameters()))


@pytest.mark.parametrize('enabled', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_backends_are_chosen_for_the_dtype_of_the_projections(enabled, dtype, monkeypatch):
    """Autocast converts all types of at most 32 bits."""
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda *_: enabled)
    monkeypatch.setattr(torch, 'get_autocast_dtype', lambda device: dict(cuda=torch.bfloat16)[device], raising=False)
    monkeypatch.setattr(torch, 'get_autocast_gpu_dtype', lambda: torch.bfloat16)
    x = SimpleNamespace(device=torch.device('cuda'), dtype=dtype)
    assert acmix._dtype_of_projections(x) == (torch.bfloat16 if enabled and dtype == torch.float32 else dtype)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_terms_in_float32_do_not_widen_the_sum(dtype):
    maps = [torch.randn(1, 4, 5, 6).to(dtype) for _ in range(2)]
    terms = [torch.randn(4, 3, 3), torch.randn(4), torch.randn(1)]
    out = sum_paths(*maps, *terms, maps[0], 1, 1)
    exact = sum_paths(*(each.double() for each in (*maps, *terms)), maps[0].double(), 1, 1)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=16 * torch.finfo(dtype).eps)


@needs_torch('2.4', 'the Triton backend')
@pytest.mark.parametrize('has_rate', [True, False])
def test_the_kernel_of_the_sum_is_registered_correctly(has_rate):
    """For half maps and parameters in float32, as under autocast, whose taps and bias lie in other tensors."""
    from mmacmix.ops.backends import triton_sum  # noqa: F401

    maps = [torch.randn(2, 4, 5, 6).half().to(DEVICE) for _ in range(2)]
    attention, convolution = maps[0], maps[1].contiguous(memory_format=torch.channels_last)
    taps, bias = torch.randn(3, 3, 4).half().permute(2, 0, 1).to(DEVICE), torch.randn(4, 2).to(DEVICE)[:, 0]
    inputs = [each.requires_grad_() for each in (attention, convolution, taps, bias)]
    rate = torch.randn(1, device=DEVICE, requires_grad=True) if has_rate else None
    torch.library.opcheck(torch.ops.mmacmix.sum_paths, (*inputs, rate, 5, 6, 1, 1))
    out = torch.ops.mmacmix.sum_paths(*inputs, rate, 5, 6, 1, 1)
    exact = sum_paths(*(None if each is None else each.double() for each in (*inputs, rate)), attention, 1, 1)
    assert out.dtype == torch.float16 and out.stride() == convolution.stride()
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-2)
    gradients = torch.autograd.grad(out.square().sum(), inputs)
    assert [each.dtype for each in gradients] == [each.dtype for each in inputs]
