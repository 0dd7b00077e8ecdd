"""Layers with the backend 'reference' can be transformed by torch.func, and their constants survive it."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from mmacmix.layers import ACmix
from mmacmix.ops import backend, coordinate_map
from mmacmix.ops.backends import choice
from tests.layers.test_graphs import ATTENTION, LAYERS

TRAINED = {name: build for name, build in (LAYERS | ATTENTION).items() if 'fused' not in name}


def with_reference(layer):
    """The layer in float64 with its parameters, and a function from parameters and a map to a loss."""
    layer = layer.double().eval()
    if isinstance(layer, ACmix):
        layer.backend = 'reference'
    parameters = {name: each.detach() for name, each in layer.named_parameters() if each.requires_grad}
    return layer, parameters, lambda parameters, x: functional_call(layer, parameters, (x,)).square().sum()


def gradients_by_autograd(layer, x):
    leaves = {name: each for name, each in layer.named_parameters() if each.requires_grad}
    gradients = torch.autograd.grad(layer(x).square().sum(), list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True))


@pytest.mark.parametrize('name', TRAINED)
def test_gradients_equal_those_of_autograd(name):
    layer, parameters, loss = with_reference(TRAINED[name]())
    x = torch.rand(2, 16, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(grad(loss)(parameters, x), gradients_by_autograd(layer, x))


def test_a_context_sets_the_backend(monkeypatch):
    layer, parameters, loss = with_reference(ACmix(4, 8, attention_kernel_size=3))
    layer.backend = 'auto'
    monkeypatch.setattr(choice, 'runs_kernels', lambda device: True)
    monkeypatch.setattr(choice, '_failures', {})
    x = torch.rand(1, 4, 6, 5, dtype=torch.float64)
    with backend('reference'):
        torch.testing.assert_close(grad(loss)(parameters, x), gradients_by_autograd(layer, x))
    chosen = []
    grad(lambda x: chosen.append(choice.choose(x.device, torch.float32, 4, (3, 1, 1))) or x.sum())(torch.rand(2))
    assert chosen == ['tiles']


def test_gradients_per_image_equal_those_of_autograd():
    layer, parameters, loss = with_reference(ACmix(4, 8, attention_kernel_size=3))
    images = torch.rand(3, 1, 4, 6, 5, dtype=torch.float64)
    together = vmap(grad(loss), in_dims=(None, 0))(parameters, images)
    for number, image in enumerate(images):
        expected = gradients_by_autograd(layer, image)
        torch.testing.assert_close({name: each[number] for name, each in together.items()}, expected)


@pytest.mark.parametrize('transform', [grad, lambda function: lambda x: vmap(function)(x[None])])
def test_constants_outlive_the_transformation(transform):
    x = torch.rand(1, 2, 31, 37)
    transform(lambda x: (x[:, :2] * coordinate_map(x)).sum())(x)
    assert not torch._C._functorch.is_functorch_wrapped_tensor(coordinate_map(x))
    (x.requires_grad_() * coordinate_map(x)).sum().backward()
    assert torch.equal(x.grad, coordinate_map(x))
