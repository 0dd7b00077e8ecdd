"""Multiply-adds and parameters equal published numbers, torch's counts, or counts by hand."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmacmix.backbones import ACmixPyramidVisionTransformer, ACmixResNet, ACmixSwinTransformer
from mmacmix.layers import LESA, ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix, XVolution, shift_conv
from mmacmix.ops import unfused_attention
from mmacmix.reporting.complexity import model_complexity
from mmacmix.reporting.sizes import BACKBONES, classifier_size

ATTENTION_ONLY = dict(rates=(1, 0), learn_rates=False)


def counted_by_torch(model, *inputs):
    with FlopCounterMode(display=False) as counter, unfused_attention(), torch.no_grad():
        model(*inputs)
    return counter.get_total_flops() // 2


def total_macs(model, images):
    return sum(part.macs for part in model_complexity(model, lambda: model(images)).values())


# Measured on the published code.
@pytest.mark.parametrize(
    'name, parameters, macs',
    [
        ('ACmix-ResNet-26', 10.488, 2.214),
        ('ACmix-ResNet-38', 14.411, 2.857),
        ('ACmix-ResNet-50', 18.334, 3.500),
        ('ACmix-Swin-T', 28.650, 4.649),
        ('ACmix-Swin-S', 50.345, 8.999),
    ],
)
def test_sizes_equal_those_of_the_published_code(name, parameters, macs):
    size = classifier_size(name)
    assert round(size.parameters / 1e6, 3) == parameters
    assert size.macs / 1e9 == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize('name', [name for name in BACKBONES if 'SAN' in name or 'PVT' in name])
def test_sizes_of_reconstructions_are_close_to_the_published_ones(name):
    size, published = classifier_size(name), BACKBONES[name][1]
    if 'PVT' in name:
        assert round(size.parameters / 1e6) == published.parameters
    assert size.parameters / 1e6 == pytest.approx(published.parameters, rel=0.04 if 'PVT' in name else 0.03)
    assert size.macs / 1e9 == pytest.approx(published.macs, rel=0.02 if 'PVT' in name else 0.03)


def test_networks_with_attention_only_cost_as_much_as_the_plain_networks():
    from mmdet.models.backbones import PyramidVisionTransformer, SwinTransformer

    images = torch.rand(1, 3, 224, 224)
    for ours, theirs in (
        (ACmixSwinTransformer('tiny', acmix=ATTENTION_ONLY), SwinTransformer()),
        (ACmixPyramidVisionTransformer('tiny', acmix=ATTENTION_ONLY), PyramidVisionTransformer(num_layers=[2] * 4)),
    ):
        theirs.eval()
        expected = counted_by_torch(theirs, images)
        assert total_macs(ours.eval(), images) == pytest.approx(expected, rel=0.001)


@pytest.mark.parametrize('stride', [1, 2])
def test_macs_of_acmix_equal_a_count_by_hand(stride):
    heads, head_dim, height, width = 2, 3, 8, 6
    layer = ACmix(5, heads * head_dim, stride=stride, num_heads=heads, attention_kernel_size=5)
    count = layer.macs((2, 5, height, width))
    pixels, queries = 2 * height * width, 2 * height * width // stride**2
    assert count.projections == 3 * 5 * 6 * pixels
    assert count.attention == queries * heads * (25 * head_dim + 25 * head_dim) + 2 * head_dim * height * width
    assert count.convolution == pixels * head_dim * 9 * 3 * heads + queries * head_dim * heads * 9 * 9


@pytest.mark.parametrize(
    'layer, shape',
    [
        (PatchwiseACmix(6, 16, 3), (2, 6, 5, 4)),
        (SpatialReductionACmix(8, 2, 2), (2, 6, 4, 8)),
        (WindowACmix(8, 2, window_size=3, shift_size=1), (2, 5, 4, 8)),
        (XVolution(6, 8, stride=2, groups=2), (2, 6, 5, 4)),
    ],
)
def test_macs_of_layers_equal_the_count_of_torch(layer, shape, monkeypatch):
    """Apart from a merged convolution path, whose cost differs, and from aggregation, which torch does not count."""
    # Compute in factors, neither as one plain convolution nor as one group convolution.
    monkeypatch.setattr(shift_conv, 'GROUPED_COST', -1e9)
    monkeypatch.setattr(shift_conv, 'MERGED_OUTPUTS', 0)
    x = torch.rand(shape)
    reported = layer.eval().macs(shape)
    counted = counted_by_torch(layer, x)
    if isinstance(layer, PatchwiseACmix):
        counted += 9 * 16 * 2 * 5 * 4
    if isinstance(layer, WindowACmix):
        pixels, mixing, head_dim, channels = 2 * 6 * 6, 9 * 3 * 2, 4, 8
        counted += (mixing * head_dim - 9 * head_dim * channels) * pixels  # mixing instead of projecting again
        counted -= mixing * head_dim * (channels + 1)  # merging weight and bias
    assert sum(reported) == counted


def test_macs_of_lesa_equal_a_count_by_hand():
    height, width, channels, heads = 5, 3, 16, 4
    count = LESA(8, channels, num_heads=heads, stride=2).macs((2, 8, height, width))
    pixels = height * width
    assert count.projections == 2 * pixels * 8 * 2 * channels
    assert count.convolution == 2 * pixels * (9 * 8 // heads * channels + channels**2)
    query, value = channels // 2, channels  # channels of all heads
    attention = pixels * pixels * (query + value) + pixels * (height + width) * query + pixels * 3 * channels**2
    assert count.attention == 2 * attention


def test_a_network_is_counted_by_parts():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), ACmix(8, 8), nn.Flatten(), nn.Linear(8 * 16, 2))
    parts = model_complexity(network, lambda: network(torch.rand(1, 3, 4, 4)))
    reported = network[1].macs((1, 8, 4, 4))
    assert [parts[name].macs for name in reported._fields] == list(reported)
    assert parts['rest'] == (3 * 8 * 9 + 8 + 8 * 16 * 2 + 2, 3 * 8 * 9 * 16 + 8 * 16 * 2)
    assert parts['projections'].parameters == 3 * (8 * 8 + 8)
    assert parts['attention'].parameters == 2 * 2 + 2 + 1
    assert parts['convolution'].parameters == 9 * 12 + 8 * 81 + 1
    assert sum(part.parameters for part in parts.values()) == sum(p.numel() for p in network.parameters())


def test_a_network_without_acmix_is_counted_as_rest():
    network = ACmixResNet(26, base_channels=8, stage_with_acmix=(False,) * 4).eval()
    images = torch.rand(1, 3, 32, 32)
    parts = model_complexity(network, lambda: network(images))
    assert parts['rest'].macs == counted_by_torch(network, images) > 0
    assert parts['projections'] == parts['attention'] == parts['convolution'] == (0, 0)


def test_a_layer_on_its_own_has_no_rest():
    layer, x = ACmix(8, 8), torch.rand(1, 8, 4, 4)
    parts = model_complexity(layer, lambda: layer(x))
    assert parts['rest'] == (0, 0) and parts['projections'].macs == layer.macs(x.shape).projections
