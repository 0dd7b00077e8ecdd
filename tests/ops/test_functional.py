"""Neighbourhood attention equals its definition in every backend that runs on a CPU; bad arguments are refused."""

import functools
import math

import numpy as np
import pytest
import torch

from mmacmix.ops import available_backends, functional, neighborhood_attention
from mmacmix.ops.backends import reference
from tests.conftest import DEVICE, needs_torch
from tests.ops.maps import output_and_gradients, random_maps

on_every_backend = pytest.mark.parametrize('backend', available_backends('cpu'))


def attention_by_definition(query, key, value, kernel_size, stride, dilation):
    """One output at a time, in numpy, from the definition; numpy.pad reflects the borders."""
    batch, heads, channels, rows, columns = query.shape
    reach = kernel_size // 2 * dilation
    pad = [(0, 0)] * 3 + [(reach, reach)] * 2
    key, value = (np.pad(maps, pad, mode='reflect') for maps in (key, value))
    out = np.empty_like(query)
    span = slice(None, kernel_size * dilation, dilation)
    for b, n, y, x in np.ndindex(batch, heads, rows, columns):
        window = [
            maps[b, n, :, y * stride :, x * stride :][:, span, span].reshape(channels, -1) for maps in (key, value)
        ]
        logits = query[b, n, :, y, x] @ window[0] / math.sqrt(channels)
        weights = np.exp(logits - logits.max())
        out[b, n, :, y, x] = window[1] @ (weights / weights.sum())
    return out


@on_every_backend
@pytest.mark.parametrize('height, width, kernel_size, stride, dilation', [
    (9, 11, 7, 1, 1), (8, 14, 7, 2, 1), (7, 9, 5, 2, 1), (1, 1, 7, 1, 1), (1, 5, 7, 1, 1), (2, 3, 7, 1, 1),
    (3, 3, 9, 2, 1), (2, 2, 7, 2, 3), (12, 10, 3, 1, 2), (13, 9, 7, 2, 2), (11, 12, 5, 2, 3), (10, 37, 3, 3, 2),
    (6, 6, 1, 1, 1), (17, 40, 9, 1, 3),
])  # yapf: disable
def test_equals_the_definition(backend, height, width, kernel_size, stride, dilation):
    maps = random_maps((2, 2, 3, height, width), stride)[:3]
    out = neighborhood_attention(*maps, kernel_size, stride, dilation, backend)
    expected = attention_by_definition(*(each.numpy() for each in maps), kernel_size, stride, dilation)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-12)


@on_every_backend
@pytest.mark.parametrize('stride, dilation', [(1, 1), (2, 1), (1, 2)])
def test_gradients_equal_finite_differences(backend, stride, dilation):
    maps = [each.requires_grad_() for each in random_maps((1, 1, 2, 3, 9), stride)[:3]]
    assert torch.autograd.gradcheck(lambda *m: neighborhood_attention(*m, 3, stride, dilation, backend), maps)


@pytest.mark.parametrize('backend', ['tiles', pytest.param('triton', marks=needs_torch('2.4', 'the Triton backend'))])
@pytest.mark.parametrize('differentiate', [
    lambda loss, maps: torch.autograd.grad(loss, maps), lambda loss, maps: loss.backward()
])  # yapf: disable
def test_second_derivatives_are_refused_in_one_sentence(backend, differentiate, monkeypatch):
    monkeypatch.setattr(functional, 'available_backends', lambda device: ('triton', 'tiles', 'reference'))
    maps = [each.requires_grad_() for each in random_maps((1, 1, 4, 5, 5), dtype=torch.float32, device=DEVICE)[:3]]
    out = neighborhood_attention(*maps, 3, backend=backend)
    gradients = torch.autograd.grad(out.square().sum(), maps, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives .* need backend='reference'"):
        differentiate(sum(each.square().sum() for each in gradients), maps)


@on_every_backend
@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_accurate_and_kept(backend, dtype, tolerance):
    maps = random_maps((2, 2, 16, 12, 17), dtype=dtype)
    actual = output_and_gradients(neighborhood_attention, maps, 7, 1, 1, backend)
    expected = output_and_gradients(reference.neighborhood_attention, maps, 7, 1, 1, dtype=torch.float64)
    for result, truth in zip(actual, expected, strict=True):
        assert result.dtype == dtype
        assert (result.double() - truth).abs().max() <= tolerance * truth.abs().max()


@on_every_backend
def test_large_float16_logits_do_not_overflow(backend):
    query, key, value, _ = random_maps((2, 2, 8, 6, 6), dtype=torch.float16)
    out = neighborhood_attention(query * 100, key * 100, value, backend=backend)
    assert out.isfinite().all()


@on_every_backend
def test_memory_format_does_not_matter(backend):
    maps = random_maps((2, 2, 3, 9, 13), channels_last=True)[:3]
    torch.testing.assert_close(
        neighborhood_attention(*maps, backend=backend),
        neighborhood_attention(*(each.contiguous() for each in maps), backend=backend),
    )


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(kernel_size=6), 'kernel_size must be odd.*6'),
        (dict(kernel_size=-1), 'kernel_size must be a positive integer.*-1'),
        (dict(stride=0), 'stride must be a positive integer.*0'),
        (dict(dilation=1.5), r'dilation must be a positive integer.*1\.5'),
        (dict(stride=2), r'with stride 2.*query \(2, 2, 3, 4, 5\).*got.*\(2, 2, 3, 7, 9\)'),
        (dict(key=torch.zeros(2, 2, 3, 63)), r'where only B may be 0, got .*\(2, 2, 3, 63\)'),
        (dict(key=torch.zeros(2, 2, 0, 7, 9)), r'where only B may be 0, got .*\(2, 2, 0, 7, 9\)'),
        (dict(backend='cuda'), "backend must be 'auto' or one of .*'cuda'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    query, key, value, _ = random_maps((2, 2, 3, 7, 9), dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        neighborhood_attention(**(dict(query=query, key=key, value=value) | change))


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda each: each.float(), 'float64, torch.float64 and torch.float32'),
        (lambda each: each.numpy(), 'float64, torch.float64 and ndarray'),
    ],
)
def test_values_of_another_type_are_refused(change, message):
    query, key, value, _ = random_maps((2, 2, 3, 7, 9))
    with pytest.raises(TypeError, match=message):
        neighborhood_attention(query, key, change(value))


def test_integers_are_refused():
    with pytest.raises(TypeError, match='one floating-point dtype, got torch.int64'):
        neighborhood_attention(*(torch.zeros(1, 1, 1, 3, 3, dtype=torch.int64),) * 3)


def test_output_of_an_empty_batch_stays_in_the_graph():
    maps = [torch.zeros(0, 2, 4, 5, 5, requires_grad=True) for _ in range(3)]
    out = neighborhood_attention(*maps)
    assert out.shape == (0, 2, 4, 5, 5)
    out.sum().backward()
    assert all(each.grad is not None for each in maps)


@needs_torch('2.13', 'compiling for all sizes')
@pytest.mark.parametrize('backend', ['auto', *available_backends('cpu')])
def test_compiles_for_sizes_that_are_symbols(backend):
    torch._dynamo.reset()
    attend = functools.partial(neighborhood_attention, kernel_size=3, backend=backend)
    compiled = torch.compile(attend, backend='eager', dynamic=True, fullgraph=True)
    for channels, height in ((4, 11), (5, 11), (5, 12)):
        maps = random_maps((1, 2, channels, height, 13))[:3]
        torch.testing.assert_close(compiled(*maps), attend(*maps))


def test_unknown_device_is_refused():
    with pytest.raises(RuntimeError):
        available_backends('abacus')
