"""SpatialReductionACmix equals the definition of PVT's attention and of the reconstructed convolution path."""

import numpy as np
import pytest
import torch

from mmacmix.layers import SpatialReductionACmix
from tests.layers.definitions import (
    array,
    linear,
    randomised,
    reduction_weights,
    set_rates,
    shift_conv,
    spatially_reduced,
)


def attention_by_definition(layer, x):
    value = np.split(linear(layer.key_value, spatially_reduced(layer, x)), 2, -1)[1]
    value = value.reshape(*value.shape[:2], layer.num_heads, -1)
    out = np.zeros_like(x)
    for pixel in np.ndindex(*x.shape[:2]):
        out[pixel] = np.einsum('hyx,yxhd->hd', reduction_weights(layer, x, *pixel), value).ravel()
    return linear(layer.proj, out)


def upsampled(x, factor, size):
    """Bilinear interpolation with pixel centres at halves, one axis after the other, then repetition of the border."""
    for axis in range(2):
        old = x.shape[axis]
        new = old * factor
        position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(position).astype(int)
        fraction = (position - low).reshape([-1 if each == axis else 1 for each in range(3)])
        x = x.take(low, axis) * (1 - fraction) + x.take(np.minimum(low + 1, old - 1), axis) * fraction
    return np.pad(x, [(0, new - old) for new, old in zip(size, x.shape, strict=False)] + [(0, 0)], mode='edge')


def convolution_by_definition(layer, x):
    key, value = np.split(linear(layer.key_value, spatially_reduced(layer, x)), 2, -1)
    maps = [linear(layer.query, x), *(upsampled(each, layer.sr_ratio, x.shape[:2]) for each in (key, value))]
    heads = [each.reshape(*x.shape[:2], layer.num_heads, -1) for each in maps]
    return shift_conv(layer.shift_conv, np.concatenate(heads, 2))


@pytest.mark.parametrize('num_heads', [1, 2, 4])
@pytest.mark.parametrize('reduction', [1, 2, 4])
@pytest.mark.parametrize('rates', [(1, 0), (0, 1), (0.4, -1.5)])
def test_equals_its_definition(num_heads, reduction, rates):
    layer, x = randomised(SpatialReductionACmix(8, num_heads, reduction)), torch.randn(2, 6, 11, 8, dtype=torch.float64)
    set_rates(layer, *rates)
    for image, out in zip(x.numpy(), array(layer(x)), strict=True):
        expected = rates[0] * attention_by_definition(layer, image) + rates[1] * convolution_by_definition(layer, image)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-11)


def test_gradients_pass_gradcheck():
    layer = randomised(SpatialReductionACmix(4, 2, 2))
    x = torch.randn(1, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


@pytest.mark.parametrize('size', [(1, 1), (3, 9)])
def test_a_map_smaller_than_a_patch_is_padded(size):
    layer = randomised(SpatialReductionACmix(8, 2, 4))
    x = torch.randn(1, *size, 8, dtype=torch.float64)
    padded = torch.zeros(1, max(4, size[0]), max(4, size[1]), 8, dtype=torch.float64)
    padded[:, : size[0], : size[1]] = x
    set_rates(layer, 1, 0)
    torch.testing.assert_close(layer(x), layer(padded)[:, : size[0], : size[1]])


@pytest.mark.parametrize(
    'arguments, message', [((9, 2), 'channels must be a multiple of num_heads, got 9 and 2'), ((8, 2, 0), 'got 0')]
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpatialReductionACmix(*arguments)
