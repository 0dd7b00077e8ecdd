"""Attention maps equal the attention weights of each layer's definition."""

import numpy as np
import pytest
import torch

from mmacmix.layers import LESA, ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix
from tests.layers.definitions import (
    acmix_weights,
    lesa_weights,
    patchwise_weights,
    randomised,
    reduction_weights,
    window_weights,
)


def window_map(layer, x, row, column):
    """Without the weights of padded pixels."""
    return window_weights(layer, x, row, column)[:, : x.shape[0], : x.shape[1]]


def reduction_map(layer, x, row, column):
    """The pixels of a patch share its weight; incomplete patches have none."""
    side = layer.sr_ratio
    weights = reduction_weights(layer, x, row, column).repeat(side, 1).repeat(side, 2) / side**2
    return np.pad(weights, [(0, 0), *((0, length % side) for length in x.shape[:2])])


def acmix(**arguments):
    return lambda: ACmix(6, 8, num_heads=2, **arguments), acmix_weights


#: How to build a layer with 6 input channels, its definition, and the size of the map.
CASES = {
    'ACmix': (*acmix(), (8, 9)),
    'ACmix, reflected repeatedly': (*acmix(), (2, 3)),
    'ACmix, stride 2': (*acmix(stride=2), (8, 9)),
    'ACmix, dilation 2': (*acmix(dilation=2), (15, 9)),
    'ACmix, stride 3, dilation 2': (*acmix(stride=3, dilation=2, attention_kernel_size=3), (8, 9)),
    'WindowACmix': (lambda: WindowACmix(6, 2, 4), window_map, (8, 12)),
    'WindowACmix, shifted': (lambda: WindowACmix(6, 2, 4, 2), window_map, (8, 12)),
    'WindowACmix, shifted, padded': (lambda: WindowACmix(6, 2, 4, 1), window_map, (9, 10)),
    'SpatialReductionACmix': (lambda: SpatialReductionACmix(6, 2), reduction_map, (4, 5)),
    'SpatialReductionACmix, reduced': (lambda: SpatialReductionACmix(6, 2, 2), reduction_map, (6, 8)),
    'SpatialReductionACmix, incomplete patches': (lambda: SpatialReductionACmix(6, 2, 2), reduction_map, (7, 6)),
    'PatchwiseACmix': (lambda: PatchwiseACmix(6, 16), patchwise_weights, (8, 9)),
    'PatchwiseACmix, reflected repeatedly': (lambda: PatchwiseACmix(6, 16), patchwise_weights, (2, 3)),
    'LESA': (lambda: LESA(6, 12, num_heads=3, position_size=5), lesa_weights, (5, 5)),
    'LESA, interpolated positions': (lambda: LESA(6, 12, num_heads=3, position_size=5), lesa_weights, (4, 7)),
}


@pytest.mark.parametrize('position', [(0, 0), (0, 0.5), (0.45, 0.6), (0.99, 0.99)])  # corner, edge, inside, corner
@pytest.mark.parametrize('name', CASES)
def test_equals_the_definition(name, position):
    build, definition, size = CASES[name]
    layer, x = randomised(build(), std=0.5), torch.randn(2, *size, 6, dtype=torch.float64)
    channels_last = isinstance(layer, (WindowACmix, SpatialReductionACmix))
    weights = layer.attention_map(x if channels_last else x.permute(0, 3, 1, 2), position).numpy()
    stride = layer.stride[0] if isinstance(layer, ACmix) else 1
    pixel = (int(share * -(-side // stride)) for share, side in zip(position, size, strict=True))
    expected = definition(layer, x[0].numpy(), *pixel)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-12)
    if not isinstance(layer, PatchwiseACmix) and 'padded' not in name:  # the weights of a softmax
        np.testing.assert_allclose(weights.sum((1, 2)), 1, rtol=0, atol=1e-12)


def test_map_of_one_window_is_shifted_with_shift_single_window():
    layer, x = randomised(WindowACmix(6, 2, 4, 2)), torch.randn(1, 4, 4, 6, dtype=torch.float64)
    layer.shift_single_window = True
    expected = window_weights(layer, x[0].numpy(), 1, 3)
    assert (expected == 0).any()  # masked
    np.testing.assert_allclose(layer.attention_map(x, (0.3, 0.8)).numpy(), expected, rtol=0, atol=1e-12)
