"""The tiles equal the reference with gradients, for any size, chunk and device's tile, and keep little for backward."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmacmix.ops import neighborhood_attention
from mmacmix.ops.backends import recorded_tiles, reference, tiles
from tests.conftest import HALF, needs_torch
from tests.ops.maps import output_and_gradients, random_maps


@pytest.fixture
def tile_size(monkeypatch):
    """Sets the size of the tiles."""

    def set_size(size):
        monkeypatch.setattr(tiles, 'tile_of', lambda device: size)
        for cached in (tiles.indices_of, tiles._first_tiles, tiles._mask, tiles._overlaps):
            cached.cache_clear()

    yield set_size
    for cached in (tiles.indices_of, tiles._first_tiles, tiles._mask, tiles._overlaps):
        cached.cache_clear()


def check_against_reference(maps, *window):
    actual = output_and_gradients(tiles.neighborhood_attention, maps, *window)
    expected = output_and_gradients(reference.neighborhood_attention, maps, *window)
    for result, truth in zip(actual, expected, strict=True):
        torch.testing.assert_close(result, truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize('seed', range(60))
def test_equals_the_reference_with_gradients(seed, monkeypatch, tile_size):
    rng = np.random.default_rng(seed)
    tile_size([(4, 8), (8, 8), (3, 2)][rng.integers(3)])
    monkeypatch.setattr(tiles, '_CHUNK', int(rng.choice([1, 2000, 20000, 1 << 19])))
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
        monkeypatch.setattr(tiles, '_CHUNK', chunk)
        results.append(output_and_gradients(tiles.neighborhood_attention, maps, 7, 1, 1))
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_backward_keeps_no_copies_of_windows():
    maps = [each.requires_grad_() for each in random_maps((2, 2, 3, 40, 40), dtype=torch.float32)[:3]]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        tiles.neighborhood_attention(*maps, 7, 1, 1)
    assert sum(kept) <= 3 * maps[0].numel()  # query, key and value


OVERLAPPING = [
    ((4, 8), (21, 18), (7, 1, 1)), ((4, 8), (3, 2), (9, 1, 2)), ((8, 8), (19, 40), (9, 1, 1)),
    ((3, 2), (20, 17), (9, 2, 1)), ((4, 8), (33, 29), (5, 2, 3)), ((8, 8), (4, 4), (3, 1, 1)),
    ((3, 2), (3, 9), (3, 1, 1)),
]  # yapf: disable


@pytest.mark.parametrize('tile, size, window', OVERLAPPING)
def test_no_pixel_is_added_to_twice_at_once(tile, size, window, tile_size):
    """Otherwise the order of additions on a GPU, and with it the sum, would be random."""
    tile_size(tile)
    query, key, *_ = random_maps((1, 1, 1, *size), window[1])
    sizes = tuple(query.shape[3:]), size
    rows, columns, _ = tiles._overlaps(query, *sizes, window)
    number = tiles._tiling(query, key, window).queries.shape
    for overlap, residues, count in ((rows, *number[:2]), (columns, *number[2:4])):
        for phase in range(min(overlap.phases, count)):
            axes = torch.arange(residues), torch.arange(phase, count, overlap.phases), torch.arange(overlap.keys)
            steps = (
                axis * step for axis, step in zip(torch.meshgrid(*axes, indexing='ij'), overlap.strides, strict=True)
            )
            written = sum(steps).flatten()
            assert len(written.unique()) == len(written) and written.max() < overlap.padded_length
        for _, source in overlap.borders:
            assert len(source.unique()) == len(source)


@pytest.mark.parametrize('tile, size, window', OVERLAPPING)
def test_overlapping_tiles_equal_the_reference_with_gradients(tile, size, window, tile_size):
    tile_size(tile)
    check_against_reference(random_maps((1, 2, 3, *size), window[1]), *window)


@pytest.mark.parametrize('dtype', HALF)
def test_half_precision_is_accumulated_in_float32(dtype):
    """The result is the exact one, rounded once."""
    maps = random_maps((1, 1, 4, 24, 40), dtype=dtype)
    actual = output_and_gradients(tiles.neighborhood_attention, maps, 9, 1, 1)
    expected = output_and_gradients(tiles.neighborhood_attention, maps, 9, 1, 1, dtype=torch.float32)
    for result, truth in zip(actual, expected, strict=True):
        torch.testing.assert_close(result, truth.to(dtype), rtol=1.1 * torch.finfo(dtype).eps, atol=1e-6)
        assert (result == truth.to(dtype)).double().mean() > 0.98


def test_autocast_does_not_round_float32_maps():
    maps = random_maps((1, 2, 4, 11, 13), dtype=torch.float32)
    expected = output_and_gradients(tiles.neighborhood_attention, maps, 7, 1, 1)
    with torch.autocast('cpu', torch.bfloat16):
        actual = output_and_gradients(tiles.neighborhood_attention, maps, 7, 1, 1)
    for result, truth in zip(actual, expected, strict=True):
        assert torch.equal(result, truth)


@needs_torch('2.4', 'compiling without graph breaks')
def test_autocast_does_not_round_float32_maps_in_compiled_code():
    maps = random_maps((1, 2, 4, 11, 13), dtype=torch.float32)
    expected = output_and_gradients(recorded_tiles.neighborhood_attention, maps, 7, 1, 1)
    attend = torch.compile(neighborhood_attention, backend='eager', fullgraph=True)
    with torch.autocast('cpu', torch.bfloat16):
        actual = output_and_gradients(attend, maps, 7, 1, 1, 'tiles')
    for result, truth in zip(actual, expected, strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-6, atol=1e-6)


def test_training_follows_inference_mode():
    maps = random_maps((1, 2, 4, 11, 13))
    tiles.indices_of.cache_clear()
    with torch.inference_mode():
        tiles.neighborhood_attention(*maps[:3], 7, 1, 1)
    check_against_reference(maps, 7, 1, 1)


def test_fake_tensors_do_not_enter_the_cache():
    maps = random_maps((1, 2, 4, 11, 13))
    for cached in (tiles.indices_of, tiles._first_tiles, tiles._mask, tiles._overlaps):
        cached.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        output_and_gradients(tiles.neighborhood_attention, list(map(mode.from_tensor, maps)), 7, 1, 1)
    check_against_reference(maps, 7, 1, 1)


@pytest.mark.parametrize('height, width, kernel_size, stride, dilation', [
    (9, 11, 7, 1, 1), (8, 16, 7, 2, 1), (1, 1, 7, 1, 1), (2, 3, 9, 2, 1), (13, 9, 7, 2, 2), (6, 8, 1, 1, 1),
    (10, 37, 3, 3, 2),
])  # yapf: disable
@pytest.mark.parametrize('exporting', [False, True])
def test_operations_that_exporters_and_compilers_record_equal_the_reference(
    exporting, height, width, kernel_size, stride, dilation, monkeypatch
):
    monkeypatch.setattr(recorded_tiles, 'is_exporting', lambda: exporting)
    maps = random_maps((2, 2, 3, height, width), stride)[:3]
    actual = recorded_tiles.neighborhood_attention(*maps, kernel_size, stride, dilation)
    expected = reference.neighborhood_attention(*maps, kernel_size, stride, dilation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
