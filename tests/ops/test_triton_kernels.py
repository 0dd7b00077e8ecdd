"""The Triton kernels, on a GPU where there is one and in Triton's interpreter elsewhere: see conftest.py."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmacmix.ops import available_backends, neighborhood_attention
from mmacmix.ops.backends import reference, triton_kernels

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def draw(shape, stride=1, channels_last=False, dtype=torch.float32):
    """Query, key, value and the gradient of the output."""
    *outer, height, width = shape
    few = (*outer, math.ceil(height / stride), math.ceil(width / stride))
    maps = [torch.randn(size, dtype=torch.float64).to(DEVICE, dtype) for size in (few, shape, shape, few)]
    if channels_last:
        maps = [each.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for each in maps]
    return maps


def output_and_gradients(attend, maps, window, dtype=None):
    *inputs, grad = [each.detach().to(dtype or each.dtype) for each in maps]
    inputs = [each.requires_grad_() for each in inputs]
    out = attend(*inputs, *window)
    return out, *torch.autograd.grad(out, inputs, grad)


# Shape, and kernel size, stride, dilation: several tiles, ragged ones, maps smaller than the window, all residues.
CASES = [
    pytest.param((1, 1, 4, 9, 10), (7, 1, 1), marks=pytest.mark.slow),
    pytest.param((2, 2, 5, 3, 4), (3, 1, 1), marks=pytest.mark.slow),
    ((1, 1, 20, 5, 6), (3, 1, 1)),
    ((1, 1, 4, 9, 7), (3, 2, 1)),
    ((1, 1, 4, 5, 6), (3, 1, 2)),
    pytest.param((1, 1, 4, 8, 7), (3, 2, 2), marks=pytest.mark.slow),
    ((1, 1, 4, 5, 7), (3, 2, 3)),
    ((1, 1, 4, 1, 5), (3, 1, 1)),
    pytest.param((1, 1, 4, 2, 2), (7, 1, 1), marks=pytest.mark.slow),
]


@pytest.mark.parametrize('shape, window', CASES)
def test_equals_the_reference_with_gradients(shape, window):
    maps = draw(shape, stride=window[1])
    actual = output_and_gradients(triton_kernels.neighborhood_attention, maps, window)
    expected = output_and_gradients(reference.neighborhood_attention, maps, window, torch.float64)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=5e-6)


def test_channels_last_stays_so():
    maps = draw((1, 2, 4, 5, 4), channels_last=True)
    results = output_and_gradients(triton_kernels.neighborhood_attention, maps, (3, 1, 1))
    expected = output_and_gradients(reference.neighborhood_attention, maps, (3, 1, 1), torch.float64)
    for actual, each, given in zip(results, expected, [maps[0], *maps[:3]], strict=True):
        assert actual.stride() == given.stride()
        torch.testing.assert_close(actual.double(), each, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize('dtype', [torch.float16] + [torch.bfloat16] * (DEVICE == 'cuda'))  # the interpreter lacks it
def test_narrow_types_accumulate_in_float32(dtype):
    maps = draw((1, 1, 8, 4, 9), dtype=dtype)
    actual = output_and_gradients(triton_kernels.neighborhood_attention, maps, (5, 1, 1))
    expected = output_and_gradients(reference.neighborhood_attention, maps, (5, 1, 1), torch.float64)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_is_a_well_behaved_operator():
    query, key, value, _ = draw((1, 1, 4, 3, 3))
    inputs = [each.requires_grad_() for each in (query, key, value)]
    torch.library.opcheck(torch.ops.mmacmix.neighborhood_attention, (*inputs, 3, 1, 1))


def test_is_there_on_a_gpu_unless_in_float64():
    assert available_backends('cuda') == ('blocked', 'triton', 'reference')
    assert available_backends('cpu') == ('blocked', 'reference')
    maps = draw((1, 1, 4, 3, 3), dtype=torch.float64)[:3]
    with pytest.raises(ValueError, match=r"one of \('blocked', 'reference'\) on .* in torch.float64, got 'triton'"):
        neighborhood_attention(*maps, 3, backend='triton')


@pytest.mark.parametrize('sizes', ['float32 16 7 1 1', 'float32 128 7 2 1', 'bfloat16 20 3 2 3'])
def test_compiles_for_a_gpu_fits_into_a_small_ones_memory_and_is_deterministic(sizes):
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    script = Path(__file__).with_name('compile_triton_kernels.py')
    done = subprocess.run([sys.executable, script, *sizes.split()], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = json.loads(done.stdout)
    assert len(kernels) == 3
    for kernel in kernels.values():
        assert kernel['shared'] <= 99 * 1024
        assert kernel['atomics'] == 0  # nothing is summed in an order that may differ from run to run
