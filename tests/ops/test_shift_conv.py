import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmacmix.ops import dense_shift_conv, feature_projection, merged_kernels, shift_and_sum, shift_kernels


def by_definition(features, kernel_size, stride, dilation):
    """The sum of the features, each moved to where its tap looks; zeros come in at the borders."""
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
    np.testing.assert_allclose(out.numpy(), by_definition(features, kernel_size, stride, dilation), atol=1e-12)


@pytest.mark.parametrize('heads', [1, 4, 6])
@pytest.mark.parametrize('with_bias', [True, False])
def test_merged_projection_equals_projection_then_mixing(heads, with_bias):
    rng = np.random.default_rng(1)
    head_dim, in_channels = 3, 5
    draw = lambda *shape: torch.from_numpy(rng.standard_normal(shape))  # noqa: E731
    weight, mixing, x = draw(3 * heads * head_dim, in_channels), draw(9, 3 * heads), draw(2, in_channels, 4, 6)
    bias, mixing_bias = (draw(3 * heads * head_dim), draw(9)) if with_bias else (None, None)
    # As published: project, gather the values of one head_dim index, mix them.
    projected = F.conv2d(x, weight[..., None, None], bias).view(2, 3 * heads, head_dim, 4, 6)
    expected = torch.einsum('ti,bidyx->bdtyx', mixing, projected)
    expected = expected + (mixing_bias[:, None, None] if with_bias else 0)
    merged, shift = feature_projection(weight, bias, mixing, mixing_bias)
    actual = F.conv2d(x, merged[..., None, None], shift)
    torch.testing.assert_close(actual, expected.flatten(1, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize('size', [(7, 10), (1, 1), (2, 3), (6, 1)])
@pytest.mark.parametrize('kernel_size, stride, dilation', [(3, 1, 1), (3, 2, 1), (1, 1, 1), (5, 2, 1), (3, 1, 2)])
def test_one_plain_convolution_equals_projection_then_shift_conv_with_gradients(size, kernel_size, stride, dilation):
    rng = np.random.default_rng(2)
    heads, head_dim, in_channels, taps = 2, 3, 5, kernel_size**2
    draw = lambda *shape: torch.from_numpy(rng.standard_normal(shape)).requires_grad_()  # noqa: E731
    x, weight, bias = draw(2, in_channels, *size), draw(head_dim * taps, in_channels), draw(head_dim * taps)
    kernels, shift = draw(head_dim * heads, taps, kernel_size, kernel_size), draw(head_dim * heads)
    expected = shift_and_sum(F.conv2d(x, weight[..., None, None], bias), kernels, stride, dilation)
    expected = expected + shift[:, None, None]
    merged, inner = merged_kernels(kernels, weight), merged_kernels(kernels, bias[:, None])[:, 0]
    actual = dense_shift_conv(x, merged, inner, shift, stride, dilation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    wanted = torch.from_numpy(rng.standard_normal(expected.shape))
    gradients = [
        torch.autograd.grad((out * wanted).sum(), (x, weight, bias, kernels, shift)) for out in (actual, expected)
    ]
    for gradient, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=0, atol=1e-11)
