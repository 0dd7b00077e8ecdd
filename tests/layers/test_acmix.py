"""ACmix equals the published operator, trains in every precision, and keeps its shifts."""

import pytest
import torch
from mmengine.model import initialize
from torch import nn

from mmacmix.checkpoints import convert
from mmacmix.checkpoints.acmix import OPERATOR
from mmacmix.layers import ACmix
from mmacmix.ops import available_backends, functional
from tests import golden
from tests.conftest import DEVICE, HALF, needs_torch
from tests.layers.definitions import kept_for_backward, set_rates

BACKENDS = available_backends('cpu')


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', golden.OPERATORS)
def test_equals_the_published_operator_with_all_gradients(name, backend):
    case = golden.load(name)
    a = case.arguments
    layer = ACmix(
        a['in_channels'],
        a['out_channels'],
        a['kernel_conv'],
        a['stride'],
        num_heads=a['num_heads'],
        attention_kernel_size=a['kernel_att'],
        backend=backend,
    ).double()
    layer.load_state_dict(convert(case.state_dict, 'acmix'))
    x = case.x.requires_grad_()
    y = layer(x)
    (y * golden.draw(f'{name}.g', y.shape)).sum().backward()

    assert golden.relative_error(y, case.results['y']) <= 1e-9
    assert golden.relative_error(x.grad, case.results['dx']) <= 1e-9
    gradients = {theirs: layer.get_parameter(ours).grad for theirs, ours in OPERATOR.items()}
    # Zero in exact arithmetic: the softmax cancels this bias.
    assert gradients.pop('conv_p.bias').abs().max() <= 1e-12
    for theirs, gradient in gradients.items():
        expected = case.results[f'd_{theirs}']
        assert golden.relative_error(gradient.view_as(expected), expected) <= 1e-9, theirs


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('backend', BACKENDS)
def test_half_precision_model_trains(dtype, backend):
    layer = ACmix(8, 8, stride=2, backend=backend).to(dtype)
    x = torch.rand(1, 8, 9, 7, dtype=dtype, requires_grad=True)
    out = layer(x)
    out.float().sum().backward()
    assert out.dtype == dtype and out.isfinite().all()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in [x, *layer.parameters()])


def test_autocast_gives_its_dtype():
    layer, x = ACmix(8, 8), torch.rand(1, 8, 9, 7)
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16  # as nn.Conv2d does
    assert (out.float() - layer(x)).abs().max() < 0.05


@pytest.mark.parametrize('backend', ['tiles', pytest.param('triton', marks=needs_torch('2.4', 'the Triton backend'))])
@pytest.mark.parametrize('paths', [{}, dict(rates=(1, 0), learn_rates=False)])
def test_every_parameter_stays_in_the_graph(backend, paths, monkeypatch):
    """Distributed training does not allow parameters without a gradient."""
    monkeypatch.setattr(functional, 'available_backends', lambda device: ('triton', 'tiles', 'reference'))
    layer = ACmix(4, 8, num_heads=2, attention_kernel_size=3, backend=backend, **paths).to(DEVICE)
    layer(torch.rand(1, 4, 5, 6, device=DEVICE)).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_output_has_the_memory_format_of_the_input(memory_format):
    x = torch.rand(2, 8, 9, 7).contiguous(memory_format=memory_format)
    layer = ACmix(8, 8)
    assert layer(x).is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(layer(x), layer(x.contiguous()))


def test_shifts_survive_initialisation_of_all_convolutions():
    layer = ACmix(8, 8)
    shifts = layer.shift_conv.weight.clone()
    model = nn.Sequential(layer)
    for module in model.modules():  # as the published ResNet does
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    initialize(model, dict(type='Kaiming', layer='Conv2d'))
    assert torch.equal(layer.shift_conv.weight, shifts)
    assert shifts[0, 5].nonzero().tolist() == [[1, 2]]


def test_rates_weigh_the_two_paths():
    layer, x = ACmix(8, 8), torch.rand(1, 8, 6, 6)
    parts = []
    for rates in ((1, 0), (0, 1), (0.3, -2)):
        set_rates(layer, *rates)
        parts.append(layer(x))
    torch.testing.assert_close(parts[2], 0.3 * parts[0] - 2 * parts[1])


@pytest.mark.parametrize('channels, stride', [(16, 1), (128, 1), (128, 2)])  # dense, factored, dense
def test_only_the_maps_of_the_attention_are_stored_for_backward(channels, stride):
    layer, x = ACmix(channels, channels, stride=stride), torch.rand(1, channels, 32, 32)
    with kept_for_backward(layer) as kept:
        out = layer(x)
    maps = 3 * x.nbytes + 2 * out.nbytes  # input, key, value; query and the attention's output
    weights = layer.value.weight.nbytes  # scaled by the rate
    few = 20_000  # coordinates, the rate
    assert sum(kept.values()) < maps + weights + few
