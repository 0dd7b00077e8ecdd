"""Refining a converted ResNet on images: least squares, and a closer output."""

import pytest
import torch
from torch import nn

from mmacmix.backbones import ACmixResNet
from mmacmix.backbones.warm_start import refine, refined
from mmacmix.checkpoints import convert
from mmacmix.checkpoints.resnet import approximate
from mmacmix.layers import ACmix
from tests.hosts import resnet as host


def test_refining_on_images_brings_the_output_closer_to_the_plain_networks():
    plain = host(base_channels=32)
    network = ACmixResNet(50, base_channels=32).eval()
    network.load_state_dict(convert(plain.state_dict(), 'resnet'))
    images, others = torch.rand(4, 3, 96, 96), torch.rand(2, 3, 96, 96)
    difference = lambda: (network(others)[0] - plain(others)[0]).norm() / plain(others)[0].norm()  # noqa: E731
    with torch.no_grad():
        before = difference()
        errors = refine(network, plain, images)
        assert difference() < 0.8 * before
    assert next(iter(errors)) == 'layer1.0.conv2' and len(errors) == 16
    assert all(after < before and after < 1 for before, after in errors.values())


def test_refining_solves_the_least_squares_problem():
    torch.manual_seed(0)
    conv, layer = nn.Conv2d(20, 8, 3, padding=1, bias=False).double(), ACmix(20, 8).double()
    layer.load_state_dict(approximate(conv.weight.data, 4))
    x = torch.randn(3, 20, 12, 10, dtype=torch.float64)
    refine(nn.Sequential(layer), nn.Sequential(conv), x, ridge=0)
    residual = (layer(x) - conv(x)).detach()
    weight = layer.shift_conv.weight.detach().clone().requires_grad_()
    state = {'shift_conv.weight': weight}
    torch.func.functional_call(layer, state, (x,)).sub(conv(x)).square().sum().backward()
    assert weight.grad.abs().max() < 1e-8 and residual.abs().max() > 0.01


@pytest.mark.parametrize('arguments', [{}, dict(deep_stem=True, norm_cfg=dict(type='IN', affine=True))])
def test_state_dicts_are_refined_like_networks(arguments):
    torch.manual_seed(0)
    plain = ACmixResNet(26, base_channels=16, stage_with_acmix=(False,) * 4, **arguments).eval()
    plain.init_weights()
    images = torch.rand(2, 3, 64, 64)
    whole = {f'backbone.{name}': tensor for name, tensor in plain.state_dict().items()}
    whole = {**whole, 'head.fc.weight': torch.zeros(1)} if not arguments else whole
    state_dict, errors = refined(whole, convert(whole, 'resnet'), images)
    network = ACmixResNet(26, base_channels=16, **arguments).eval()
    network.load_state_dict(convert(plain.state_dict(), 'resnet'))
    assert errors == refine(network, plain, images)
    for name, tensor in network.state_dict().items():
        assert torch.equal(state_dict[name], tensor), name


def test_a_network_of_unknown_depth_is_refused():
    plain = ACmixResNet(26, base_channels=8, stage_with_acmix=(False,) * 4, num_stages=2, out_indices=(1,))
    with pytest.raises(ValueError, match=r'no depth of \[26, 38, 50, 101\] has \(1, 2, 0, 0\) bottlenecks'):
        refined(plain.state_dict(), convert(plain.state_dict(), 'resnet'), torch.rand(1, 3, 64, 64))
