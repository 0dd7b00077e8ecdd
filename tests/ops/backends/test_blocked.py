"""The blocked backend equals the reference with gradients, for any size and chunk, and keeps little for backward."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmacmix.ops.backends import blocked, reference
from tests.ops.maps import output_and_gradients, random_maps


def check_against_reference(maps, *window):
    actual = output_and_gradients(blocked.neighborhood_attention, maps, *window)
    expected = output_and_gradients(reference.neighborhood_attention, maps, *window)
    for result, truth in zip(actual, expected, strict=True):
        torch.testing.assert_close(result, truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize('seed', range(60))
def test_equals_the_reference_with_gradients(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(blocked, '_CHUNK', int(rng.choice([1, 2000, 20000, 1 << 19])))
    stride, dilation = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    height, width = (int(rng.integers(1, 4) if rng.random() < 0.3 else rng.integers(1, 41)) for _ in range(2))
    heads, channels, kernel_size = int(rng.integers(1, 9)), int(rng.integers(1, 6)), int(rng.choice([3, 5, 7, 9]))
    check_against_reference(random_maps((2, heads, channels, height, width), stride), kernel_size, stride, dilation)


@pytest.mark.parametrize('channels', [127, 128])
def test_wide_heads_equal_the_reference_with_gradients(channels):
    check_against_reference(random_maps((1, 1, channels, 9, 37)), 7, 1, 1)


def test_chunk_size_does_not_matter(monkeypatch):
    maps = random_maps((2, 2, 3, 30, 33))
    results = []
    for chunk in (1, 1000, 1 << 30):
        monkeypatch.setattr(blocked, '_CHUNK', chunk)
        results.append(output_and_gradients(blocked.neighborhood_attention, maps, 7, 1, 1))
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_backward_keeps_no_copies_of_windows():
    maps = [each.requires_grad_() for each in random_maps((2, 2, 3, 40, 40), dtype=torch.float32)[:3]]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        blocked.neighborhood_attention(*maps, 7, 1, 1)
    assert sum(kept) <= 4 * maps[0].numel()  # query, key, value and output


def test_fake_tensors_do_not_enter_the_cache():
    maps = random_maps((1, 2, 4, 11, 13))
    blocked._layout.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        blocked.neighborhood_attention(*map(mode.from_tensor, maps[:3]), 7, 1, 1)
    check_against_reference(maps, 7, 1, 1)
