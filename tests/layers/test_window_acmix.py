import numpy as np
import pytest
import torch
from torch import nn

from mmacmix.layers import WindowACmix


def layer_of(*arguments, **options):
    torch.manual_seed(0)
    layer = WindowACmix(*arguments, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def attention_by_definition(layer, x):
    """Pixel by pixel: a query sees the pixels of its window that the roll did not bring together."""
    side, shift, heads = layer.window_size, layer.shift_size, layer.num_heads
    height, width, channels = x.shape
    rows, columns = (-(-length // side) * side for length in (height, width))
    padded = np.zeros((rows, columns, channels))
    padded[:height, :width] = x
    weight, bias, table = (
        parameter.detach().numpy()
        for parameter in (layer.qkv.weight, layer.qkv.bias, layer.relative_position_bias_table)
    )
    query, key, value = ((padded @ weight.T + bias).reshape(rows, columns, 3, heads, -1)).transpose(2, 0, 1, 3, 4)
    out = np.zeros_like(query)
    for row in range(height):
        for column in range(width):
            at = (row - shift) % rows, (column - shift) % columns  # on the rolled map
            wrapped = row < shift, column < shift
            seen, offsets = [], []
            for i in range(at[0] // side * side, (at[0] // side + 1) * side):
                for j in range(at[1] // side * side, (at[1] // side + 1) * side):
                    pixel = (i + shift) % rows, (j + shift) % columns
                    if (pixel[0] < shift, pixel[1] < shift) == wrapped:
                        seen.append(pixel)
                        offsets.append((at[0] - i + side - 1) * (2 * side - 1) + at[1] - j + side - 1)
            keys, values = (np.stack([maps[pixel] for pixel in seen]) for maps in (key, value))
            logits = np.einsum('hd,khd->kh', query[row, column], keys) * query.shape[-1] ** -0.5 + table[offsets]
            logits = np.exp(logits - logits.max(0))
            out[row, column] = np.einsum('kh,khd->hd', logits / logits.sum(0), values)
    out = out.reshape(rows, columns, -1)[:height, :width]
    return out @ layer.proj.weight.detach().numpy().T + layer.proj.bias.detach().numpy()


@pytest.mark.parametrize('shift', [0, 1, 2])
@pytest.mark.parametrize('height, width', [(8, 12), (5, 9), (3, 7)])
def test_attention_equals_its_definition(shift, height, width):
    layer = layer_of(6, 2, window_size=4, shift_size=shift)
    layer.shift_single_window = True
    nn.init.ones_(layer.attention_rate)
    nn.init.zeros_(layer.conv_rate)
    x = torch.randn(2, height, width, 6, dtype=torch.float64)
    actual = layer(x).detach()
    for image, out in zip(x, actual, strict=True):
        assert np.abs(attention_by_definition(layer, image.numpy()) - out.numpy()).max() < 1e-12


def convolution_by_definition(layer, x):
    """The fully connected layer over q, k, v of all heads, then the group convolution with zeros around."""
    height, width, channels = x.shape
    heads, depth = layer.num_heads, channels // layer.num_heads
    qkv = x @ layer.qkv.weight.detach().numpy().T + layer.qkv.bias.detach().numpy()
    qkv = qkv.reshape(height, width, 3 * heads, depth)
    shift_conv = layer.shift_conv
    mixed = (
        np.einsum('ts,hwsd->hwdt', shift_conv.mixing.detach().numpy(), qkv) + shift_conv.mixing_bias.detach().numpy()
    )
    mixed = np.pad(mixed, ((1, 1), (1, 1), (0, 0), (0, 0)))
    kernels = shift_conv.weight.detach().numpy().reshape(depth, heads, 9, 3, 3)
    out = np.zeros((height, width, depth, heads))
    for i in range(3):
        for j in range(3):
            out += np.einsum('dnt,hwdt->hwdn', kernels[..., i, j], mixed[i : i + height, j : j + width])
    return out.reshape(height, width, channels)


def convolution_alone(**options):
    layer = layer_of(6, 2, window_size=4, **options)
    nn.init.zeros_(layer.attention_rate)
    nn.init.ones_(layer.conv_rate)
    return layer


@pytest.mark.parametrize('shift', [0, 2])
def test_convolution_sees_the_rolled_map_as_published(shift):
    layer = convolution_alone(shift_size=shift)
    x = torch.randn(7, 9, 6, dtype=torch.float64)
    rolled = np.roll(np.pad(x.numpy(), ((0, 1), (0, 3), (0, 0))), (-shift, -shift), (0, 1))
    expected = np.roll(convolution_by_definition(layer, rolled), (shift, shift), (0, 1))[:7, :9]
    assert np.abs(expected - layer(x[None])[0].detach().numpy()).max() < 1e-12


def test_convolution_sees_the_map_as_it_is_when_asked_to():
    layer = convolution_alone(shift_size=2, conv_on_rolled=False)
    x = torch.randn(7, 9, 6, dtype=torch.float64)
    expected = convolution_by_definition(layer, x.numpy())
    assert np.abs(expected - layer(x[None])[0].detach().numpy()).max() < 1e-12
    published = convolution_alone(shift_size=2)
    differs = (published(x[None])[0] - layer(x[None])[0]).abs().amax(-1) > 1e-9
    beside_seam_or_border = torch.zeros(7, 9, dtype=torch.bool)
    beside_seam_or_border[[0, 1, 2, 6]] = True
    beside_seam_or_border[:, [0, 1, 2, 8]] = True
    assert not (differs & ~beside_seam_or_border).any() and differs.any()


def test_gradients():
    layer = layer_of(4, 2, window_size=3, shift_size=1)
    x = torch.randn(1, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


def test_a_map_of_one_window_is_shifted_only_if_its_weights_say_so():
    layer = layer_of(4, 2, window_size=4, shift_size=2)
    unshifted = layer_of(4, 2, window_size=4)
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    assert torch.equal(layer(x), unshifted(x))
    state_dict = layer.state_dict()
    state_dict['_extra_state'] = torch.tensor(True)
    layer.load_state_dict(state_dict)
    assert layer.shift_single_window and not torch.allclose(layer(x), unshifted(x))
    assert layer.state_dict()['_extra_state']


def test_a_table_of_another_window_size_is_resized():
    layer, other = layer_of(4, 2, window_size=4), layer_of(4, 2, window_size=7)
    place = torch.linspace(-1, 1, 13)
    image = torch.stack([place[:, None].expand(13, 13), 2 * place.expand(13, 13)])  # a slope down, a slope right
    state_dict = other.state_dict()
    state_dict['relative_position_bias_table'] = image.flatten(1).T.double()
    layer.load_state_dict(state_dict)
    resized = layer.relative_position_bias_table.T.reshape(2, 7, 7)
    torch.testing.assert_close(resized[1], 2 * resized[0].T)
    steps = resized[0].diff(dim=0)[1:-1]  # inside; a cubic flattens at the borders
    torch.testing.assert_close(steps, torch.full_like(steps, 2 / 12 * 13 / 7), rtol=0.05, atol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
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
        (
            dict(channels=6, num_heads=2, shift_size=7),
            'shift_size must be 0 to window_size - 1, got 7',
        ),
        (dict(channels=6, num_heads=2, window_size=0), 'window_size must be a positive integer, got 0'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        WindowACmix(**arguments)
