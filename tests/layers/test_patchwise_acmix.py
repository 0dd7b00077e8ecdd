import numpy as np
import pytest
import torch
from torch import nn

from mmacmix.layers import PatchwiseACmix


def layer_of(*arguments, **options):
    torch.manual_seed(0)
    layer = PatchwiseACmix(*arguments, **options).double().eval()
    for name, tensor in layer.state_dict().items():
        if 'running_var' in name:
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.3)
    return layer


def projected(conv, x):
    return (
        np.einsum('oi,ihw->ohw', conv.weight.detach().numpy()[..., 0, 0], x) + conv.bias.detach().numpy()[:, None, None]
    )


def normalised(norm, x):
    mean, var, weight, bias = (
        each.detach().numpy() for each in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / np.sqrt(var + norm.eps) * weight + bias


def attention_by_definition(layer, x):
    """Pixel by pixel: patch -> network -> weights -> sum, with borders as numpy reflects them."""
    side = layer.attention_kernel_size
    query, key, value = (projected(conv, x) for conv in (layer.query, layer.key, layer.value))
    norm1, _, linear1, norm2, _, linear2 = layer.weights
    pad = [(0, 0), (side // 2,) * 2, (side // 2,) * 2]
    keys, values = (np.pad(each, pad, mode='reflect') for each in (key, value))
    out = np.zeros_like(value)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            window = slice(row, row + side), slice(column, column + side)
            seen = np.concatenate((query[:, row, column], keys[(slice(None), *window)].reshape(len(key), -1).ravel()))
            hidden = linear1.weight.detach().numpy()[..., 0, 0] @ np.maximum(normalised(norm1, seen), 0)
            hidden = np.maximum(normalised(norm2, hidden), 0)
            weights = linear2.weight.detach().numpy()[..., 0, 0] @ hidden + linear2.bias.detach().numpy()
            weights = weights.reshape(-1, side * side)
            for channel in range(len(value)):
                patch = values[channel][window].ravel()
                out[channel, row, column] = weights[channel % len(weights)] @ patch
    return out


def convolution_by_definition(layer, x):
    """For each index of head_dim: one value of query and key, some of the value; mixed, shifted and summed."""
    query, key, value = (projected(conv, x) for conv in (layer.query, layer.key, layer.value))
    depth = len(query)
    stacked = np.concatenate((query[None], key[None], value.reshape(-1, *query.shape)))
    mixed = np.einsum('ti,idhw->dthw', layer.shift_conv.mixing.detach().numpy(), stacked)
    mixed = np.pad(mixed, [(0, 0), (0, 0), (1, 1), (1, 1)])
    kernels = layer.shift_conv.weight.detach().numpy().reshape(depth, -1, 9, 3, 3)
    out = 0
    for i in range(3):
        for j in range(3):
            seen = mixed[:, :, i : i + x.shape[1], j : j + x.shape[2]]
            out = out + np.einsum('dnt,dthw->dnhw', kernels[..., i, j], seen)
    return out.reshape(value.shape)


@pytest.mark.parametrize('side', [3, 7])
@pytest.mark.parametrize('rates', [(1, 0), (0, 1), (0.4, -1.5)])
@pytest.mark.parametrize('height, width', [(9, 6), (2, 3), (1, 1)])
def test_equals_its_definition(side, rates, height, width):
    layer = layer_of(6, 16, side)
    nn.init.constant_(layer.attention_rate, rates[0])
    nn.init.constant_(layer.conv_rate, rates[1])
    x = torch.randn(2, 6, height, width, dtype=torch.float64)
    for image, out in zip(x.numpy(), layer(x).detach().numpy(), strict=True):
        expected = rates[0] * attention_by_definition(layer, image) + rates[1] * convolution_by_definition(layer, image)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-10)


def test_gradients():
    layer = layer_of(3, 8, 3)
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
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchwiseACmix(*arguments)
