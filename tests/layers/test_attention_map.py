"""Attention maps against gradients: the output of attention is a sum of values, weighted with just these numbers."""

import pytest
import torch
from torch import nn

from mmacmix.layers import ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix

ALONE = dict(rates=(1, 0), learn_rates=False)  # attention without convolution


def drawn(layer):
    """With weights that differ, in evaluation, without a projection of the output."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    if hasattr(layer, 'proj'):
        nn.init.eye_(layer.proj.weight)
        nn.init.zeros_(layer.proj.bias)
    return layer.double().eval()


def free_values(projection, channels, dim):
    """The last channels of a projection's output become a leaf, nothing else depends on anything."""
    leaf = []

    def replace(module, inputs, out):
        others, value = out.detach().split((out.shape[dim] - channels, channels), dim)
        leaf.append(value.clone().requires_grad_())
        return torch.cat((others, leaf[0]), dim)

    projection.register_forward_hook(replace)
    return leaf


def place_of(pixel, size):
    return tuple((at + 0.5) / side for at, side in zip(pixel, size, strict=True))


@pytest.mark.parametrize('arguments', [dict(), dict(stride=2), dict(dilation=2), dict(attention_kernel_size=3)])
@pytest.mark.parametrize('pixel', [(0, 0), (2, 3), (3, 2)])
def test_of_acmix(arguments, pixel, monkeypatch):
    layer = drawn(ACmix(6, 8, num_heads=2, backend='reference', **ALONE, **arguments))
    x = torch.randn(1, 6, 8, 8, dtype=torch.float64)
    leaf = []

    def attend(query, key, value):
        leaf.append(value.detach().requires_grad_())
        return ACmix.attend(layer, query, key, leaf[0])

    monkeypatch.setattr(layer, 'attend', attend)
    out = layer(x)
    weights = layer.attention_map(x, place_of(pixel, out.shape[2:]))
    for head in range(2):
        (gradient,) = torch.autograd.grad(out[0, 4 * head, pixel[0], pixel[1]], leaf, retain_graph=True)
        torch.testing.assert_close(weights[head], gradient[0, head, 0])
        assert weights[head].sum().item() == pytest.approx(1)


@pytest.mark.parametrize('shift', [0, 2])
@pytest.mark.parametrize('pixel', [(0, 0), (5, 9), (8, 3)])
def test_of_windows(shift, pixel):
    layer, x = drawn(WindowACmix(8, 2, 4, shift, **ALONE)), torch.randn(1, 9, 10, 8, dtype=torch.float64)
    weights = layer.attention_map(x, place_of(pixel, (9, 10)))
    leaf = free_values(layer.qkv, 8, 3)
    out = layer(x)
    for head in range(2):
        (gradient,) = torch.autograd.grad(out[0, pixel[0], pixel[1], 4 * head], leaf, retain_graph=True)
        gradient = gradient.roll((shift, shift), (1, 2))[0, :9, :10, 4 * head]
        torch.testing.assert_close(weights[head], gradient)


@pytest.mark.parametrize('pixel', [(0, 0), (5, 4)])
def test_of_spatial_reduction(pixel):
    layer, x = drawn(SpatialReductionACmix(8, 2, 2, **ALONE)), torch.randn(1, 7, 6, 8, dtype=torch.float64)
    weights = layer.attention_map(x, place_of(pixel, (7, 6)))
    leaf = free_values(layer.key_value, 8, 3)
    out = layer(x)
    for head in range(2):
        (gradient,) = torch.autograd.grad(out[0, pixel[0], pixel[1], 4 * head], leaf, retain_graph=True)
        of_patches = weights[head, :6].unflatten(0, (3, 2)).unflatten(2, (3, 2)).sum((1, 3))
        torch.testing.assert_close(of_patches, gradient[0, ..., 4 * head])
        assert not weights[head, 6].any() and weights[head, 0, 0] == weights[head, 1, 1]


@pytest.mark.parametrize('pixel', [(0, 0), (3, 4)])
def test_of_patches(pixel):
    layer, x = drawn(PatchwiseACmix(6, 16, share=8, **ALONE)), torch.randn(1, 6, 8, 5, dtype=torch.float64)
    weights = layer.attention_map(x, place_of(pixel, (8, 5)))
    leaf = free_values(layer.value, 16, 1)
    out = layer(x)
    for channel in (0, 5):
        (gradient,) = torch.autograd.grad(out[0, channel, pixel[0], pixel[1]], leaf, retain_graph=True)
        torch.testing.assert_close(weights[channel % 2], gradient[0, channel])
