"""The Triton kernels equal the reference, on a GPU if present, else in Triton's interpreter (see conftest.py)."""

import json
import os
import random
import subprocess
import sys

import pytest
import torch

from mmacmix.ops import available_backends, coordinate_map, neighborhood_attention
from mmacmix.ops.backends import reference
from tests.conftest import needs_torch
from tests.ops.maps import output_and_gradients, random_maps
from tests.tooling import ROOT

pytestmark = needs_torch('2.4', 'the Triton backend')
if torch.__version__ >= '2.4':
    from mmacmix.ops.backends import triton_kernels

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def attend_with_terms(query, key, value, *window_and_terms):
    """The reference, with the terms of the ACmix layer as the layer computes them."""
    *window, query_bias, position, rate = window_and_terms
    coordinates = coordinate_map(key[:, 0])
    key = key - torch.einsum('dc,bcyx->bdyx', position, coordinates)[:, None]
    return rate * reference.neighborhood_attention(query + query_bias[..., None, None], key, value, *window)


def random_terms(heads, head_dim):
    shapes = (heads, head_dim), (head_dim, 2), (1,)
    return [torch.randn(shape, dtype=torch.float64).to(DEVICE, torch.float32) for shape in shapes]


def results(attend, maps, window, terms=(), dtype=None):
    """Output and gradients of the first three maps and of the terms, computed in ``dtype``."""
    *inputs, grad = [each.detach().to(dtype or each.dtype) for each in maps]
    terms = [each.detach().to(dtype or each.dtype) for each in terms]
    inputs = [each.requires_grad_() for each in (*inputs, *terms)]
    out = attend(*inputs[:3], *window, *inputs[3:])
    return out, *torch.autograd.grad(out, inputs, grad)


def check(maps, window, terms=()):
    """Compare the kernels in float32 with the definition in float64."""
    definition = attend_with_terms if terms else reference.neighborhood_attention
    actual = results(triton_kernels.neighborhood_attention, maps, window, terms)
    expected = results(definition, maps, window, terms, torch.float64)
    in_float32 = results(definition, maps, window, terms)
    names = 'output', 'query', 'key', 'value', 'query_bias', 'position', 'rate'
    for name, ours, theirs, truth in zip(names, actual, in_float32, expected, strict=False):
        assert ours.shape == truth.shape and ours.dtype == torch.float32
        error, rounding = ((each.double() - truth).abs().max().item() for each in (ours, theirs))
        # Where terms cancel, for example on maps of one pixel, where most gradients are zero, no computation in float32
        # is that exact. The error of the reference in float32, which shares no code with the kernels, bounds these.
        assert error <= max(1e-5 * truth.abs().max().item(), 2 * rounding), (name, error, rounding)


def random_case(seed):
    """Shape, window, memory format, whether with terms, and whether with the tiles of tensor cores."""
    generator = random.Random(seed)
    while True:
        batch, heads = generator.choice([(1, 1), (1, 1), (1, 2), (2, 1), (2, 3)])
        head_dim = generator.choice([1, 2, 3, 4, 8, 16, 17, 20, 32, 33, 64, 100, 128, 256])
        height, width = generator.randint(1, 17), generator.randint(1, 17)
        kernel_size, stride, dilation = generator.choice([1, 3, 5, 7, 9]), *generator.choices([1, 2, 3], [3, 2, 1], k=2)
        flags = [generator.random() < 0.5 for _ in range(3)]
        tiles = sum((side // (8 * dilation) + 1) * dilation for side in (height, width)) ** 2 / 4
        if batch * heads * tiles * (kernel_size + 3) < 60:  # the interpreter is slow
            return (batch, heads, head_dim, height, width), (kernel_size, stride, dilation), *flags


@pytest.mark.parametrize('seed', [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 4)) for seed in range(220)])
def test_random_cases_equal_the_definition(seed, monkeypatch):
    shape, window, channels_last, has_terms, wide_tiles = random_case(seed)
    torch.manual_seed(seed)
    if wide_tiles:
        monkeypatch.setattr(triton_kernels, '_SCALAR', triton_kernels._TENSOR_CORES)
    maps = random_maps(shape, window[1], torch.float32, channels_last, DEVICE)
    check(maps, window, random_terms(*shape[1:3]) if has_terms else ())
