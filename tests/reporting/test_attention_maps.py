"""Attention maps are observed in every layer that attends, and drawn bright at the right pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmacmix.backbones import ACmixResNet, ACmixSwinTransformer
from mmacmix.layers import ACmix
from mmacmix.reporting.attention_maps import draw_attention, last_of_each_stage, observed_attention


@pytest.mark.parametrize(
    'network, last',
    [
        (ACmixResNet(26, base_channels=8), ['layer1.0.conv2', 'layer2.1.conv2', 'layer3.3.conv2', 'layer4.0.conv2']),
        (
            ACmixSwinTransformer(dict(embed_dims=8, depths=(2, 1), num_heads=(2, 4)), out_indices=(0, 1)),
            ['stages.0.1.attn', 'stages.1.0.attn'],
        ),
    ],
)
def test_the_last_layer_of_each_stage_is_chosen(network, last):
    with torch.no_grad(), observed_attention(network.eval(), (0.5, 0.5)) as maps:
        network(torch.rand(1, 3, 64, 96))
    assert list(last_of_each_stage(maps)) == last
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_layers_without_attention_are_skipped():
    network = nn.Sequential(ACmix(8, 8, rates=(0, 1), learn_rates=False), ACmix(8, 8))
    with torch.no_grad(), observed_attention(network, (0, 0)) as maps:
        network(torch.rand(1, 8, 9, 9))
    assert list(maps) == ['1']


@pytest.mark.parametrize('side', [1, 4])
def test_weights_of_zero_can_be_drawn(side, tmp_path):
    image = np.zeros((32, 48, 3), np.uint8)
    draw_attention(image, {'layer': torch.zeros(1, side, side)}, (3, 3), (48, 32), tmp_path / 'drawn.png')
    assert (tmp_path / 'drawn.png').stat().st_size > 1000


def test_pixels_with_large_weights_are_bright(tmp_path):
    weights = torch.zeros(10, 8, 8)
    weights[:, 2, 5] = 0.75
    weights[:, 6, 1] = 0.25
    image = np.zeros((80, 80, 3), np.uint8)
    draw_attention(image, {'layer': weights}, (40, 40), (80, 80), tmp_path / 'drawn.png')
    picture = np.array(Image.open(tmp_path / 'drawn.png').convert('RGB'))
    bright = (picture[..., 0] > 200) & (picture[..., 1] > 200) & (picture[..., 2] < 200)  # the end of 'inferno'
    rows, columns = np.nonzero(bright)
    assert len(rows) > 10 * 100  # ten heads, in two rows
    assert np.ptp(rows) > 150 and np.ptp(columns) > 800
