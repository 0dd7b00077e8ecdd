import math

import numpy as np
import pytest
import torch

from mmacmix.ops import available_backends, neighborhood_attention
from mmacmix.ops.backends import blocked as blocked_backend

BACKENDS = available_backends('cpu')


def attention_by_definition(query, key, value, kernel_size, stride, dilation):
    """One output at a time, in numpy, from the definition; borders are numpy's own reflection."""
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


def random_maps(rng, height, width, stride, heads=2, channels=3, batch=2, dtype=torch.float64):
    sizes = [(math.ceil(height / stride), math.ceil(width / stride)), (height, width), (height, width)]
    return [torch.from_numpy(rng.standard_normal((batch, heads, channels, *size))).to(dtype) for size in sizes]


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('height, width, kernel_size, stride, dilation', [
    (9, 11, 7, 1, 1), (8, 14, 7, 2, 1), (7, 9, 5, 2, 1), (1, 1, 7, 1, 1), (1, 5, 7, 1, 1), (2, 3, 7, 1, 1),
    (3, 3, 9, 2, 1), (2, 2, 7, 2, 3), (12, 10, 3, 1, 2), (13, 9, 7, 2, 2), (11, 12, 5, 2, 3), (10, 37, 3, 3, 2),
    (6, 6, 1, 1, 1), (17, 40, 9, 1, 3),
])  # yapf: disable
def test_equals_the_definition(backend, height, width, kernel_size, stride, dilation):
    maps = random_maps(np.random.default_rng(0), height, width, stride)
    out = neighborhood_attention(*maps, kernel_size, stride, dilation, backend)
    expected = attention_by_definition(*(m.numpy() for m in maps), kernel_size, stride, dilation)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('seed', range(60))
def test_blocked_equals_reference_with_gradients(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(blocked_backend, '_CHUNK', int(rng.choice([1, 2000, 20000, 1 << 19])))
    stride, dilation = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    height, width = (int(rng.integers(1, 4) if rng.random() < 0.3 else rng.integers(1, 41)) for _ in range(2))
    heads, channels, kernel_size = int(rng.integers(1, 9)), int(rng.integers(1, 6)), int(rng.choice([3, 5, 7, 9]))
    maps = [m.requires_grad_() for m in random_maps(rng, height, width, stride, heads, channels)]
    weight = torch.from_numpy(rng.standard_normal(maps[0].shape))
    results = []
    for backend in ('reference', 'blocked'):
        out = neighborhood_attention(*maps, kernel_size, stride, dilation, backend)
        results.append((out, *torch.autograd.grad((out * weight).sum(), maps)))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('channels', [127, 128])
def test_wide_heads_with_gradients(channels):
    maps = random_maps(np.random.default_rng(9), 9, 37, 1, heads=1, channels=channels, batch=1)
    maps = [m.requires_grad_() for m in maps]
    results = []
    for backend in ('reference', 'blocked'):
        out = neighborhood_attention(*maps, backend=backend)
        results.append((out, *torch.autograd.grad(out.square().sum(), maps)))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('stride, dilation', [(1, 1), (2, 1), (1, 2)])
def test_gradients_equal_finite_differences(backend, stride, dilation):
    maps = [m.requires_grad_() for m in random_maps(np.random.default_rng(1), 3, 9, stride, 1, 2, 1)]
    assert torch.autograd.gradcheck(lambda *m: neighborhood_attention(*m, 3, stride, dilation, backend), maps)


def test_chunks_do_not_show(monkeypatch):
    maps = [m.requires_grad_() for m in random_maps(np.random.default_rng(2), 30, 33, 1)]
    results = []
    for chunk in (1, 1000, 1 << 30):
        monkeypatch.setattr(blocked_backend, '_CHUNK', chunk)
        out = neighborhood_attention(*maps, backend='blocked')
        results.append((out, *torch.autograd.grad(out.square().sum(), maps)))
    for other in results[1:]:
        for expected, actual in zip(results[0], other, strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_keeps_its_dtype_and_is_close(backend, dtype, tolerance):
    maps = [m.requires_grad_() for m in random_maps(np.random.default_rng(3), 12, 17, 1, channels=16, dtype=dtype)]
    out = neighborhood_attention(*maps, backend=backend)
    gradients = torch.autograd.grad(out.float().square().sum(), maps)
    exact = [m.detach().double().requires_grad_() for m in maps]
    expected = neighborhood_attention(*exact, backend='reference')
    expected_gradients = torch.autograd.grad(expected.square().sum(), exact)
    for actual, truth in zip((out, *gradients), (expected, *expected_gradients), strict=True):
        assert actual.dtype == dtype
        assert (actual.double() - truth).abs().max() <= tolerance * truth.abs().max()


@pytest.mark.parametrize('backend', BACKENDS)
def test_large_float16_logits_do_not_overflow(backend):
    maps = random_maps(np.random.default_rng(4), 6, 6, 1, channels=8)
    query, key, value = (m.half() for m in maps)
    out = neighborhood_attention(query * 100, key * 100, value, backend=backend)
    assert out.isfinite().all()


@pytest.mark.parametrize('backend', BACKENDS)
def test_memory_format_of_the_input_does_not_matter(backend):
    maps = random_maps(np.random.default_rng(5), 9, 13, 1)
    strided = [m.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for m in maps]
    torch.testing.assert_close(
        neighborhood_attention(*strided, backend=backend), neighborhood_attention(*maps, backend=backend)
    )


def test_backward_keeps_no_copies_of_windows():
    maps = [m.requires_grad_() for m in random_maps(np.random.default_rng(6), 40, 40, 1, dtype=torch.float32)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        neighborhood_attention(*maps, backend='blocked')
    assert sum(kept) <= 4 * maps[0].numel()  # query, key, value and output


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(kernel_size=6), 'kernel_size must be odd.*6'),
        (dict(kernel_size=-1), 'kernel_size must be a positive integer.*-1'),
        (dict(stride=0), 'stride must be a positive integer.*0'),
        (dict(dilation=1.5), r'dilation must be a positive integer.*1\.5'),
        (dict(stride=2), r'with stride 2.*query \(2, 2, 3, 4, 5\).*got.*\(2, 2, 3, 7, 9\)'),
        (dict(backend='cuda'), "backend must be 'auto' or one of .*'cuda'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    maps = random_maps(np.random.default_rng(7), 7, 9, 1)
    with pytest.raises(ValueError, match=message):
        neighborhood_attention(*maps, **change)


def test_mixed_dtypes_are_refused():
    query, key, value = random_maps(np.random.default_rng(8), 7, 9, 1)
    with pytest.raises(TypeError, match='float64, torch.float64 and torch.float32'):
        neighborhood_attention(query, key, value.float())


def test_a_batch_of_no_images_stays_in_the_graph():
    maps = [torch.zeros(0, 2, 4, 5, 5, requires_grad=True) for _ in range(3)]
    out = neighborhood_attention(*maps)
    assert out.shape == (0, 2, 4, 5, 5)
    out.sum().backward()
    assert all(each.grad is not None for each in maps)


def test_tracing_with_fake_tensors_leaves_nothing_behind():
    from torch._subclasses.fake_tensor import FakeTensorMode

    maps = [torch.rand(1, 2, 4, 11, 13) for _ in range(3)]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        neighborhood_attention(*map(mode.from_tensor, maps), backend='blocked')
    torch.testing.assert_close(
        neighborhood_attention(*maps, backend='blocked'), neighborhood_attention(*maps, backend='reference')
    )


def test_unknown_device_has_no_backends():
    with pytest.raises(RuntimeError):
        available_backends('abacus')
