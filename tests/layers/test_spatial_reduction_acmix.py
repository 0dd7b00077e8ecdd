import numpy as np
import pytest
import torch
from torch import nn

from mmacmix.layers import SpatialReductionACmix


def layer_of(*arguments, **options):
    torch.manual_seed(0)
    layer = SpatialReductionACmix(*arguments, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def numpy_of(module):
    return [parameter.detach().numpy() for parameter in (module.weight, module.bias)]


def linear(x, module):
    weight, bias = numpy_of(module)
    return x @ weight.T + bias


def reduced_by_definition(layer, x):
    """One normalised value a whole patch."""
    side = layer.sr_ratio
    if side == 1:
        return x
    (weight, bias), (scale, shift) = numpy_of(layer.reduce), numpy_of(layer.norm)
    rows, columns = (length // side for length in x.shape[:2])
    out = np.zeros((rows, columns, x.shape[2]))
    for i in range(rows):
        for j in range(columns):
            patch = x[i * side : (i + 1) * side, j * side : (j + 1) * side]
            out[i, j] = np.einsum('oiyx,yxi->o', weight, patch) + bias
    centered = out - out.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6) * scale + shift


def attention_by_definition(layer, x):
    heads = layer.num_heads
    key, value = np.split(linear(reduced_by_definition(layer, x), layer.key_value), 2, -1)
    query = linear(x, layer.query)
    head = lambda a: a.reshape(-1, heads, a.shape[-1] // heads)  # noqa: E731
    logits = np.einsum('qhd,khd->hqk', head(query), head(key)) * head(query).shape[-1] ** -0.5
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return linear(np.einsum('hqk,khd->qhd', weights, head(value)).reshape(x.shape), layer.proj)


def enlarge(x, factor, size):
    """Bilinear, pixel centres at halves, one axis after the other; then the last row and column again and again."""
    for axis in range(2):
        old = x.shape[axis]
        new = old * factor
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(place).astype(int)
        part = (place - low).reshape([-1 if each == axis else 1 for each in range(3)])
        x = x.take(low, axis) * (1 - part) + x.take(np.minimum(low + 1, old - 1), axis) * part
    return np.pad(x, [(0, new - old) for new, old in zip(size, x.shape, strict=False)] + [(0, 0)], mode='edge')


def convolution_by_definition(layer, x):
    heads, shift_conv = layer.num_heads, layer.shift_conv
    key, value = np.split(linear(reduced_by_definition(layer, x), layer.key_value), 2, -1)
    maps = [linear(x, layer.query), *(enlarge(each, layer.sr_ratio, x.shape[:2]) for each in (key, value))]
    qkv = np.concatenate([each.reshape(*x.shape[:2], heads, -1) for each in maps], 2)
    mixed = np.einsum('ts,hwsd->hwdt', shift_conv.mixing.detach().numpy(), qkv)
    mixed = np.pad(mixed + shift_conv.mixing_bias.detach().numpy(), ((1, 1), (1, 1), (0, 0), (0, 0)))
    kernels = shift_conv.weight.detach().numpy().reshape(-1, heads, 9, 3, 3)
    out = 0
    for i in range(3):
        for j in range(3):
            window = mixed[i : i + x.shape[0], j : j + x.shape[1]]
            out = out + np.einsum('dnt,hwdt->hwdn', kernels[..., i, j], window)
    return out.reshape(x.shape)


@pytest.mark.parametrize('reduction', [1, 2, 4])
@pytest.mark.parametrize('rates', [(1, 0), (0, 1), (0.4, -1.5)])
def test_equals_its_definition(reduction, rates):
    layer = layer_of(8, 2, reduction)
    nn.init.constant_(layer.attention_rate, rates[0])
    nn.init.constant_(layer.conv_rate, rates[1])
    x = torch.randn(2, 6, 11, 8, dtype=torch.float64)
    for image, out in zip(x.numpy(), layer(x).detach().numpy(), strict=True):
        expected = rates[0] * attention_by_definition(layer, image) + rates[1] * convolution_by_definition(layer, image)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-11)


def test_gradients():
    layer = layer_of(4, 2, 2)
    x = torch.randn(1, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


@pytest.mark.parametrize('size', [(1, 1), (3, 9)])
def test_map_smaller_than_a_patch_is_padded(size):
    layer = layer_of(8, 2, 4)
    x = torch.randn(1, *size, 8, dtype=torch.float64)
    padded = torch.zeros(1, max(4, size[0]), max(4, size[1]), 8, dtype=torch.float64)
    padded[:, : size[0], : size[1]] = x
    nn.init.zeros_(layer.conv_rate)
    torch.testing.assert_close(layer(x), layer(padded)[:, : size[0], : size[1]])


@pytest.mark.parametrize(
    'arguments, message', [((9, 2), 'channels must be a multiple of num_heads, got 9 and 2'), ((8, 2, 0), 'got 0')]
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpatialReductionACmix(*arguments)
