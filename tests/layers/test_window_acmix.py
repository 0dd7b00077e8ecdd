"""WindowACmix equals the definition of Swin's window attention and of the published convolution path."""

import numpy as np
import pytest
import torch

from mmacmix.layers import WindowACmix
from tests.conftest import HALF
from tests.layers.definitions import (
    array,
    linear,
    padded_to_windows,
    randomised,
    set_rates,
    shift_conv,
    window_weights,
)


def layer_of(*arguments, rates=(0.4, -1.5), **options):
    layer = randomised(WindowACmix(*arguments, **options))
    set_rates(layer, *rates)
    return layer


def attention_by_definition(layer, x):
    value = linear(layer.qkv, padded_to_windows(layer, x))[..., 2 * x.shape[2] :]
    value = value.reshape(*value.shape[:2], layer.num_heads, -1)
    out = np.zeros_like(x)
    for pixel in np.ndindex(*x.shape[:2]):
        out[pixel] = np.einsum('hyx,yxhd->hd', window_weights(layer, x, *pixel), value).ravel()
    return linear(layer.proj, out)


@pytest.mark.parametrize('shift', [0, 1, 2])
@pytest.mark.parametrize('height, width', [(8, 12), (5, 9), (3, 7)])
def test_attention_equals_its_definition(shift, height, width):
    layer = layer_of(6, 2, window_size=4, shift_size=shift, rates=(1, 0))
    layer.shift_single_window = True
    x = torch.randn(2, height, width, 6, dtype=torch.float64)
    for image, out in zip(x.numpy(), array(layer(x)), strict=True):
        assert np.abs(attention_by_definition(layer, image) - out).max() < 1e-12


def convolution_by_definition(layer, x):
    return shift_conv(layer.shift_conv, linear(layer.qkv, x).reshape(*x.shape[:2], 3 * layer.num_heads, -1))


def convolution_alone(**options):
    return layer_of(6, 2, window_size=4, rates=(0, 1), **options)


@pytest.mark.parametrize('shift', [0, 2])
def test_convolution_runs_on_the_rolled_map_by_default(shift):
    layer, x = convolution_alone(shift_size=shift), torch.randn(7, 9, 6, dtype=torch.float64)
    rolled = np.roll(padded_to_windows(layer, x.numpy()), (-shift, -shift), (0, 1))
    expected = np.roll(convolution_by_definition(layer, rolled), (shift, shift), (0, 1))[:7, :9]
    assert np.abs(expected - array(layer(x[None])[0])).max() < 1e-12


def test_convolution_on_the_original_map_differs_only_next_to_seam_and_borders():
    layer, published = convolution_alone(shift_size=2, conv_on_rolled=False), convolution_alone(shift_size=2)
    published.load_state_dict(layer.state_dict())
    x = torch.randn(7, 9, 6, dtype=torch.float64)
    assert np.abs(convolution_by_definition(layer, x.numpy()) - array(layer(x[None])[0])).max() < 1e-12
    differs = (published(x[None])[0] - layer(x[None])[0]).abs().amax(-1) > 1e-9
    next_to_seam_or_border = torch.zeros(7, 9, dtype=torch.bool)
    next_to_seam_or_border[[0, 1, 2, 6]] = True
    next_to_seam_or_border[:, [0, 1, 2, 8]] = True
    assert differs.any() and not (differs & ~next_to_seam_or_border).any()


def test_gradients_pass_gradcheck():
    layer = layer_of(4, 2, window_size=3, shift_size=1)
    x = torch.randn(1, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


def test_more_windows_than_a_kernel_takes_are_attended_in_parts(monkeypatch):
    layer = layer_of(6, 2, window_size=4, shift_size=2)
    x = torch.randn(2, 13, 18, 6, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)
    monkeypatch.setattr('mmacmix.ops.attention.MOST_HEADS', 7)  # of 40 windows times heads
    heads, attention = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        'torch.nn.functional.scaled_dot_product_attention',
        lambda query, *others, **options: (heads.append(query.shape[1]), attention(query, *others, **options))[1],
    )
    actual = layer(x)
    assert heads == [7, 7, 7, 7, 7, 5]
    (actual_grad,) = torch.autograd.grad(actual.square().sum(), x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual_grad, expected_grad, rtol=0, atol=1e-10)


def test_a_map_of_one_window_is_shifted_only_with_the_extra_state_of_its_checkpoint():
    layer, unshifted = layer_of(4, 2, window_size=4, shift_size=2), layer_of(4, 2, window_size=4)
    state_dict = unshifted.state_dict()
    layer.load_state_dict(state_dict)
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    assert torch.equal(layer(x), unshifted(x))
    layer.load_state_dict({**state_dict, '_extra_state': torch.tensor(True)})
    assert layer.shift_single_window and not torch.allclose(layer(x), unshifted(x))
    assert layer.state_dict()['_extra_state']


def test_the_bias_table_of_another_window_size_is_resized():
    layer, other = layer_of(4, 2, window_size=4), layer_of(4, 2, window_size=7)
    offsets = torch.linspace(-1, 1, 13)
    image = torch.stack([offsets[:, None].expand(13, 13), 2 * offsets.expand(13, 13)])  # vertical, horizontal gradient
    table = image.flatten(1).T.double()
    layer.load_state_dict({**other.state_dict(), 'relative_position_bias_table': table})
    resized = layer.relative_position_bias_table.T.reshape(2, 7, 7)
    torch.testing.assert_close(resized[1], 2 * resized[0].T)
    steps = resized[0].diff(dim=0)[1:-1]  # bicubic interpolation flattens at the borders
    torch.testing.assert_close(steps, torch.full_like(steps, 2 / 12 * 13 / 7), rtol=0.05, atol=0)


@pytest.mark.parametrize('dtype', HALF)
def test_half_precision_is_close_to_float64(dtype):
    layer = layer_of(8, 2, window_size=4, shift_size=2)
    x = torch.randn(2, 9, 6, 8)
    expected = layer(x.double())
    out = layer.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(channels=6, num_heads=4), 'channels must be a multiple of num_heads, got 6 and 4'),
        (dict(channels=6, num_heads=2, shift_size=7), 'shift_size must be 0 to window_size - 1, got 7'),
        (dict(channels=6, num_heads=2, window_size=0), 'window_size must be a positive integer, got 0'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        WindowACmix(**arguments)
