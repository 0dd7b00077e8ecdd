"""A plain ResNet as ACmix-ResNet: the best approximation of its 3x3 convolutions, everything else equal."""

import numpy as np
import pytest
import torch
from torch import nn

from mmacmix.backbones import ACmixResNet
from mmacmix.checkpoints import convert
from mmacmix.checkpoints.resnet import approximate, dense_kernel, kernel_errors
from mmacmix.layers import ACmix
from tests.hosts import resnet as host


def smallest_error(weight, heads):
    """Norm of the error of the best low-rank approximation, over groups of outputs that share their features."""
    lost = 0
    for group in weight.detach().double().numpy().reshape(-1, heads, *weight.shape[1:]):
        rows = group.transpose(0, 2, 3, 1).reshape(-1, weight.shape[1])
        lost += (np.linalg.svd(rows, compute_uv=False)[min(9, 3 * heads) :] ** 2).sum()
    return lost**0.5


@pytest.mark.parametrize('out_channels, in_channels, heads', [(16, 32, 4), (12, 20, 6), (8, 6, 4), (8, 40, 2)])
def test_no_approximation_is_nearer(out_channels, in_channels, heads):
    torch.manual_seed(0)
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False).double()
    layer = ACmix(in_channels, out_channels, num_heads=heads).double()
    layer.load_state_dict(approximate(conv.weight.data, heads))
    dense = dense_kernel(layer.state_dict())
    x = torch.randn(2, in_channels, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, dense, padding=1))
    assert (dense - conv.weight).norm().item() == pytest.approx(smallest_error(conv.weight, heads), abs=1e-9)
    assert in_channels > 9 or torch.allclose(layer(x), conv(x))


def test_a_narrow_resnet_is_converted_exactly():
    plain = host(base_channels=8, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))
    network = ACmixResNet(50, base_channels=8, num_stages=1, out_indices=(0,)).eval()
    network.load_state_dict(convert(plain.state_dict(), 'resnet'))
    images = torch.rand(1, 3, 40, 52)
    for actual, expected in zip(network(images), plain(images), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_everything_except_the_3x3_convolutions_is_copied():
    plain = host(base_channels=16).state_dict()
    network = ACmixResNet(50, base_channels=16)
    network.load_state_dict(convert(dict(plain, **{'fc.weight': torch.zeros(1), 'fc.bias': torch.zeros(1)}), 'resnet'))
    ours = network.state_dict()
    for name, tensor in plain.items():
        if not name.endswith('conv2.weight'):
            assert torch.equal(ours[name], tensor), name
    layer = network.layer3[1].conv2
    assert (layer.attention_rate.item(), layer.conv_rate.item()) == (0, 1)
    error = (dense_kernel(layer.state_dict()) - plain['layer3.1.conv2.weight']).norm()
    assert 0 < error < plain['layer3.1.conv2.weight'].norm()
    errors = kernel_errors(plain, network.state_dict())
    assert len(errors) == 16
    assert errors['layer3.1.conv2'] == pytest.approx((error / plain['layer3.1.conv2.weight'].norm()).item())


def test_attention_trains_from_rate_0():
    torch.manual_seed(0)
    layer = ACmix(16, 16)
    layer.load_state_dict(approximate(torch.randn(16, 16, 3, 3), 4))
    layer(torch.randn(1, 16, 8, 8)).square().sum().backward()
    assert layer.attention_rate.grad.abs() > 0 and layer.value.weight.std() > 0


def plain(change):
    network = ACmixResNet(26, base_channels=8, stage_with_acmix=(False,) * 4)
    state_dict = network.state_dict()
    change(state_dict)
    return state_dict


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda d: d.update(surprise=torch.zeros(1)), 'unknown keys: surprise'),
        (lambda d: d.pop('layer2.1.bn2.weight'), 'missing keys: layer2.1.bn2.weight'),
        (lambda d: d.pop('conv1.weight'), 'missing keys: conv1.weight'),
        (lambda d: d.clear(), 'it has no bottlenecks'),
        (
            lambda d: d.update({'layer1.0.conv2.weight': torch.zeros(8, 2, 3, 3)}),  # grouped, as in ResNeXt
            r'layer1.0.conv2.weight must be a dense 3x3 convolution, got \(8, 2, 3, 3\)',
        ),
    ],
)
def test_other_networks_are_refused(change, message):
    with pytest.raises(ValueError, match=f"not a checkpoint of 'resnet'.*{message}"):
        convert(plain(change), 'resnet')


def test_a_resnet_of_basic_blocks_is_refused():
    from mmdet.models.backbones import ResNet

    with pytest.raises(ValueError, match='missing keys: .*conv3'):
        convert(ResNet(18, base_channels=8).state_dict(), 'resnet')
