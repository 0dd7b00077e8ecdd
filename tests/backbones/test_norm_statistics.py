"""Statistics of batch normalisation that are measured on images."""

import numpy as np
import pytest
import torch
from torch import nn

from mmacmix.backbones.norm_statistics import measure_norms, unfold_norms


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
    for norm in layers[1], layers[4]:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return layers.double()


def statistics(maps):
    maps = maps.detach().numpy()
    return maps.mean((0, 2, 3)), maps.var((0, 2, 3))


def test_measured_statistics_are_means_over_batches():
    layers = network()
    layers[0].train()
    layers[1].eval()
    batches = [torch.rand(2, 3, 6, 7, dtype=torch.float64) for _ in range(3)]
    measure_norms(layers, batches)
    means, variances = zip(*(statistics(layers[0](batch)) for batch in batches), strict=True)
    np.testing.assert_allclose(layers[1].running_mean, np.mean(means, 0), rtol=1e-12)
    pixels = 2 * 4 * 5  # running variances are unbiased
    np.testing.assert_allclose(layers[1].running_var, np.mean(variances, 0) * pixels / (pixels - 1), rtol=1e-12)
    assert layers[0].training and not layers[1].training and layers[1].momentum == 0.1


def test_measured_statistics_follow_those_of_earlier_layers():
    layers = network()
    batch = torch.rand(4, 3, 6, 7, dtype=torch.float64)
    measure_norms(layers, [batch])
    np.testing.assert_allclose(layers[4].running_mean, statistics(layers[:4].train()(batch))[0], rtol=1e-10)


def test_unfolding_changes_statistics_and_no_output():
    layers = network().eval()
    layers[2].train()
    batch = torch.rand(2, 3, 6, 7, dtype=torch.float64)
    before = layers(batch)
    unfold_norms(layers, batch)
    torch.testing.assert_close(layers(batch), before, rtol=1e-12, atol=1e-12)
    for index in (1, 4):
        mean, variance = statistics(layers[:index](batch))
        np.testing.assert_allclose(layers[index].running_mean, mean, rtol=1e-10)
        np.testing.assert_allclose(layers[index].running_var, variance, rtol=1e-10)
    assert layers[2].training and not layers[1].training


@pytest.mark.parametrize('change', [unfold_norms, lambda layers, batch: measure_norms(layers, [batch])])
def test_networks_without_batch_normalisation_are_left_alone(change):
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    change(layers, torch.rand(1, 3, 6, 7))
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items())
