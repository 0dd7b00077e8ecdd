"""PatchwiseACmix equals the definition of SAN's patchwise attention and of the reconstructed convolution path."""

import numpy as np
import pytest
import torch

from mmacmix.layers import PatchwiseACmix
from tests.layers.definitions import array, linear, patchwise_weights, randomised, set_rates, shift_conv


def attention_by_definition(layer, x):
    value, out = linear(layer.value, x), np.zeros((*x.shape[:2], layer.value.out_channels))
    for pixel in np.ndindex(*x.shape[:2]):
        weights = patchwise_weights(layer, x, *pixel)
        for channel in range(out.shape[2]):
            out[pixel][channel] = (weights[channel % len(weights)] * value[..., channel]).sum()
    return out


def convolution_by_definition(layer, x):
    """Each index of head_dim mixes a channel of the query, one of the key, and some of the value."""
    query, key, value = (linear(each, x) for each in (layer.query, layer.key, layer.value))
    inputs = np.concatenate((query[..., None, :], key[..., None, :], value.reshape(*x.shape[:2], -1, key.shape[2])), 2)
    return shift_conv(layer.shift_conv, inputs)


@pytest.mark.parametrize('side', [3, 7])
@pytest.mark.parametrize('rates', [(1, 0), (0, 1), (0.4, -1.5)])
@pytest.mark.parametrize('height, width', [(9, 6), (2, 3), (1, 1)])
def test_equals_its_definition(side, rates, height, width):
    layer, x = randomised(PatchwiseACmix(6, 16, side)), torch.randn(2, height, width, 6, dtype=torch.float64)
    set_rates(layer, *rates)
    actual = array(layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    for image, out in zip(x.numpy(), actual, strict=True):
        expected = rates[0] * attention_by_definition(layer, image) + rates[1] * convolution_by_definition(layer, image)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-10)


def test_gradients_pass_gradcheck():
    layer = randomised(PatchwiseACmix(3, 8, 3))
    x = torch.randn(1, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((4, 12), 'channels must be a multiple of share, got 12 and 8'),
        ((4, 16, 4), 'attention_kernel_size must be .*odd.* 4'),
        ((4, 16, 7, 3), 'channels must be a multiple of num_heads, got 16 and 3'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchwiseACmix(*arguments)
