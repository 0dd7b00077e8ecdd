"""The Triton kernels equal the reference, on a GPU if present, else in Triton's interpreter (see conftest.py)."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mmacmix.ops import available_backends, neighborhood_attention
from mmacmix.ops.backends import reference
from tests.conftest import needs_torch
from tests.ops.maps import output_and_gradients, random_maps
from tests.tooling import ROOT

pytestmark = needs_torch('2.4', 'the Triton backend')
if torch.__version__ >= '2.4':
    from mmacmix.ops.backends import triton_kernels

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def results_and_truth(maps, window):
    """Outputs and gradients of the kernels, and of the reference in float64."""
    actual = output_and_gradients(triton_kernels.neighborhood_attention, maps, *window)
    expected = output_and_gradients(reference.neighborhood_attention, maps, *window, dtype=torch.float64)
    return list(zip(actual, expected, strict=True))


# Shape, and kernel size, stride, dilation: several tiles, partial tiles, maps smaller than the window, all residues.
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
    maps = random_maps(shape, window[1], torch.float32, device=DEVICE)
    for actual, expected in results_and_truth(maps, window):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=5e-6)


def test_channels_last_memory_is_kept():
    maps = random_maps((1, 2, 4, 5, 4), dtype=torch.float32, channels_last=True, device=DEVICE)
    for (actual, expected), given in zip(results_and_truth(maps, (3, 1, 1)), [maps[0], *maps[:3]], strict=True):
        assert actual.stride() == given.stride()
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize('dtype', [torch.float16] + [torch.bfloat16] * (DEVICE == 'cuda'))  # not in the interpreter
def test_narrow_types_accumulate_in_float32(dtype):
    maps = random_maps((1, 1, 8, 4, 9), dtype=dtype, device=DEVICE)
    for actual, expected in results_and_truth(maps, (5, 1, 1)):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_operator_is_registered_correctly():
    inputs = [each.requires_grad_() for each in random_maps((1, 1, 4, 3, 3), dtype=torch.float32, device=DEVICE)[:3]]
    torch.library.opcheck(torch.ops.mmacmix.neighborhood_attention, (*inputs, 3, 1, 1))


def test_is_available_on_gpus_except_in_float64():
    assert available_backends('cuda') == ('tiles', 'triton', 'reference')
    assert available_backends('cpu') == ('tiles', 'reference')
    maps = random_maps((1, 1, 4, 3, 3), device=DEVICE)[:3]
    with pytest.raises(ValueError, match=r"one of \('tiles', 'reference'\) on .* in torch.float64, got 'triton'"):
        neighborhood_attention(*maps, 3, backend='triton')


@pytest.mark.parametrize('sizes', ['float32 16 7 1 1', 'float32 128 7 2 1', 'bfloat16 20 3 2 3'])
def test_compiles_for_a_small_gpu_without_atomics(sizes):
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    command = [sys.executable, '-m', 'tests.ops.backends.compile_triton_kernels', *sizes.split()]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = json.loads(done.stdout)
    assert len(kernels) == 3
    for kernel in kernels.values():
        assert kernel['shared'] <= 99 * 1024
        assert kernel['atomics'] == 0  # atomic additions would make gradients differ from run to run
