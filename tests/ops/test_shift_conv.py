"""Shift and sum equals its definition, and the merged projections and kernels equal their factors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmacmix.ops import dense_kernels, feature_projection, grouped_kernels, mix, shift_and_sum, shift_kernels, sum_paths


def random(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def shift_and_sum_by_definition(features, kernel_size, stride, dilation):
    """The sum of the features, each shifted by its tap's offset, with zero padding."""
    batch, _, height, width = features.shape
    taps = kernel_size**2
    reach = kernel_size // 2 * dilation
    out = 0
    padded = np.pad(features.reshape(batch, -1, taps, height, width), [(0, 0)] * 3 + [(reach, reach)] * 2)
    for t in range(taps):
        y, x = (t // kernel_size) * dilation, (t % kernel_size) * dilation
        out = out + padded[:, :, t, y : y + height : stride, x : x + width : stride]
    return out


@pytest.mark.parametrize('kernel_size, stride, dilation', [(3, 1, 1), (3, 2, 1), (1, 1, 1), (5, 2, 1), (3, 1, 2)])
def test_shift_kernels_shift_and_sum(kernel_size, stride, dilation):
    features = np.random.default_rng(0).standard_normal((2, 4 * kernel_size**2, 7, 10))
    kernels = shift_kernels(4, kernel_size).double()
    out = shift_and_sum(torch.from_numpy(features), kernels, stride, dilation)
    np.testing.assert_allclose(
        out.numpy(), shift_and_sum_by_definition(features, kernel_size, stride, dilation), atol=1e-12
    )


@pytest.mark.parametrize('heads', [1, 4, 6])
@pytest.mark.parametrize('with_bias', [True, False])
def test_merged_projection_equals_projection_then_mixing(heads, with_bias):
    head_dim, in_channels = 3, 5
    weight, mixing, x = random(3 * heads * head_dim, in_channels), random(9, 3 * heads), random(2, in_channels, 4, 6)
    bias, mixing_bias = (random(3 * heads * head_dim), random(9)) if with_bias else (None, None)
    # As published: project, gather the values of each head_dim index, mix them.
    projected = F.conv2d(x, weight[..., None, None], bias).view(2, 3 * heads, head_dim, 4, 6)
    expected = torch.einsum('ti,bidyx->bdtyx', mixing, projected)
    expected = expected + (mixing_bias[:, None, None] if with_bias else 0)
    merged, shift = feature_projection(weight.unflatten(0, (3 * heads, -1)), bias, mixing, mixing_bias)
    actual = F.conv2d(x, merged[..., None, None], shift)
    torch.testing.assert_close(actual, expected.flatten(1, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize('size', [(7, 10), (1, 1), (2, 3), (6, 1)])
@pytest.mark.parametrize('kernel_size, stride, dilation', [(3, 1, 1), (3, 2, 1), (1, 1, 1), (5, 2, 1), (3, 1, 2)])
@pytest.mark.parametrize('with_mixing_bias', [True, False])
def test_dense_convolution_equals_its_factors_with_gradients(size, kernel_size, stride, dilation, with_mixing_bias):
    heads, head_dim, in_channels, taps = 2, 3, 5, kernel_size**2
    x, weight, bias = random(2, in_channels, *size), random(18, in_channels), random(18)
    mixing, mixing_bias = random(taps, 3 * heads), random(taps) if with_mixing_bias else None
    kernels, shift = random(head_dim * heads, taps, kernel_size, kernel_size), random(head_dim * heads)
    projected = F.conv2d(x, weight[..., None, None], bias).unflatten(1, (3 * heads, -1)).transpose(1, 2)
    projected = mix(projected, mixing, mixing_bias)
    expected = shift_and_sum(projected, kernels, stride, dilation) + shift[:, None, None]
    dense, inner = dense_kernels(kernels, mixing, weight.unflatten(0, (3 * heads, -1)), bias, mixing_bias)
    padding = kernel_size // 2 * dilation
    convolution = F.conv2d(x, dense, None, stride, padding, dilation)
    actual = sum_paths(None, convolution, inner, shift, None, x, stride, dilation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    inputs, grad = (x, weight, bias, kernels, shift, mixing), torch.randn_like(expected)
    inputs += (mixing_bias,) * with_mixing_bias
    gradients = [torch.autograd.grad(out, inputs, grad) for out in (actual, expected)]
    for gradient, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=0, atol=1e-11)


@pytest.mark.parametrize('heads', [1, 3])
@pytest.mark.parametrize('kernel_size, stride, dilation', [(3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 2)])
@pytest.mark.parametrize('with_mixing_bias', [True, False])
def test_group_convolution_of_projections_equals_its_factors(heads, kernel_size, stride, dilation, with_mixing_bias):
    head_dim, inputs, taps = 4, 5, kernel_size**2
    projections, mixing = random(2, head_dim, inputs, 7, 10), random(taps, inputs)
    kernels = random(head_dim * heads, taps, kernel_size, kernel_size)
    mixing_bias = random(taps) if with_mixing_bias else None
    expected = shift_and_sum(mix(projections, mixing, mixing_bias), kernels, stride, dilation)
    merged, inner = grouped_kernels(kernels, mixing, mixing_bias)
    x = projections.flatten(1, 2)
    actual = sum_paths(None, shift_and_sum(x, merged, stride, dilation), inner, None, None, x, stride, dilation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    leaves = [projections, mixing, kernels] + [mixing_bias] * with_mixing_bias
    gradients = [torch.autograd.grad(out.square().sum(), leaves) for out in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
