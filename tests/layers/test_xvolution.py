"""XVolution equals the definition of pixel shift self-attention plus a convolution."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mmacmix.layers import XVolution
from mmacmix.ops import related, shifted, stacked
from tests.layers.definitions import kept_for_backward

CASES = [
    dict(),
    dict(stride=2),
    dict(stride=3, dilation=2),
    dict(shift_distance=3),
    dict(directions=((0, 1), (-1, 0))),
    dict(directions=((0, 0), (1, -1)), shift_distance=2, groups=2),
]


def slow_pssa(x, weight, offsets, stride, groups):
    """The sum over offsets of weighted products with shifted pixels; ``weight`` is ``(out, offsets, in / groups)``."""
    batch, channels, height, width = x.shape
    inside, outside = channels // groups, len(weight) // groups
    out = torch.zeros(batch, len(weight), math.ceil(height / stride), math.ceil(width / stride), dtype=x.dtype)
    for image, o, row, column in np.ndindex(*out.shape):
        total = 0
        for tap, (down, right) in enumerate(offsets):
            y, z = row * stride + down, column * stride + right
            if not (0 <= y < height and 0 <= z < width):
                continue  # zero padding
            for c in range(inside):
                channel = o // outside * inside + c
                product = x[image, channel, row * stride, column * stride] * x[image, channel, y, z]
                total = total + weight[o, tap, c] * product
        out[image, o, row, column] = total
    return out


@pytest.mark.parametrize('arguments', CASES)
def test_pixel_shift_attention_equals_its_definition_with_gradients(arguments):
    layer = XVolution(4, 6, **arguments).double()
    x = torch.randn(2, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    out = layer._attention(x)
    weight = layer.attention.weight.view(layer.groups, 6 // layer.groups, len(layer.offsets), -1).flatten(0, 1)
    slow = slow_pssa(x, weight, layer.offsets, layer.stride[0], layer.groups)
    assert (out - slow).abs().max() <= 1e-10
    g, leaves = torch.randn_like(slow), (x, layer.attention.weight)
    fast, slow = (torch.autograd.grad(each, leaves, g) for each in (out, slow))
    assert all((a - b).abs().max() <= 1e-10 for a, b in zip(fast, slow, strict=True))


def test_offsets_are_directions_times_distance_times_dilation():
    layer = XVolution(2, 2, directions=[[0, -1], [1, 1]], shift_distance=3, dilation=2)
    assert layer.offsets == [(0, -6), (6, 6)]
    assert sorted(XVolution(2, 2).offsets) == sorted({(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)} - {(0, 0)})


@pytest.mark.parametrize('training', [True, False])
def test_is_the_sum_of_two_normalised_branches(training):
    layer, x = XVolution(4, 6, bias=True).double().train(training), torch.randn(3, 4, 5, 6, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    products = stacked(related(x, shifted(x, layer.offsets)))
    branches = []
    for out, norm in ((layer.attention(products), layer.attention_norm), (layer.conv(x), layer.conv_norm)):
        mean, variance = out.mean((0, 2, 3), keepdim=True), out.var((0, 2, 3), correction=0, keepdim=True)
        if not training:
            mean, variance = 0, torch.ones((), dtype=x.dtype)
        out = (out - mean) / (variance + norm.eps).sqrt()
        branches.append(out * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1))
    expected = branches[0] + branches[1] + layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(layer(x), expected)
    for path, branch in zip(layer.paths(x), branches, strict=True):
        torch.testing.assert_close(path, branch)


def test_without_relations_the_branch_is_a_convolution():
    layer, x = XVolution(4, 6, relations=False).double(), torch.randn(2, 4, 5, 6, dtype=torch.float64)
    kernel = torch.zeros(6, 4, 3, 3, dtype=torch.float64)
    for tap, (down, right) in enumerate(layer.offsets):
        kernel[:, :, down + 1, right + 1] = layer.attention.weight[:, 4 * tap : 4 * tap + 4, 0, 0].detach()
    torch.testing.assert_close(layer._attention(x), nn.functional.conv2d(x, kernel, padding=1))


def test_only_the_input_and_the_branch_outputs_are_stored_for_backward():
    layer, x = XVolution(16, 16), torch.rand(2, 16, 32, 32)
    with kept_for_backward(layer) as kept:
        layer(x)
    few = 10_000  # statistics
    assert sum(kept.values()) < 3 * x.nbytes + few


def test_statistics_are_updated_once_per_step():
    layer = XVolution(4, 4)
    layer(torch.rand(2, 4, 5, 5)).sum().backward()
    assert layer.attention_norm.num_batches_tracked == layer.conv_norm.num_batches_tracked == 1


@pytest.mark.parametrize('pixel', [(0, 0), (2, 3)])
@pytest.mark.parametrize('arguments', [dict(), dict(stride=2), dict(groups=2), dict(relations=False)])
def test_attention_map_is_the_norm_of_the_kernel(arguments, pixel):
    layer, x = XVolution(4, 6, **arguments).double(), torch.randn(1, 4, 8, 8, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    maps = shifted(leaf, layer.offsets, layer.stride[0])
    if layer.relations:  # constant
        maps = [x[:, :, :: layer.stride[0], :: layer.stride[0]] * each for each in maps]
    out = layer.attention(stacked(maps, layer.groups))
    kernel = torch.stack(
        [torch.autograd.grad(each, leaf, retain_graph=True)[0][0] for each in out[0, :, pixel[0], pixel[1]]]
    )
    position = tuple((at + 0.5) / side for at, side in zip(pixel, out.shape[2:], strict=True))
    torch.testing.assert_close(layer.attention_map(x, position)[0], kernel.square().sum((0, 1)).sqrt())
