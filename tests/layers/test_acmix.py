import math

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule, build_conv_layer
from mmengine.analysis import get_model_complexity_info
from mmengine.model import initialize
from mmengine.registry import MODELS
from torch import nn

from mmacmix.checkpoints import convert
from mmacmix.checkpoints.acmix import OPERATOR
from mmacmix.layers import ACmix, shift_conv
from mmacmix.ops import available_backends
from tests import golden

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
    # Exactly zero in exact arithmetic: the softmax cancels this bias.
    assert gradients.pop('conv_p.bias').abs().max() <= 1e-12
    for theirs, gradient in gradients.items():
        expected = case.results[f'd_{theirs}']
        assert golden.relative_error(gradient.view_as(expected), expected) <= 1e-9, theirs


@pytest.mark.parametrize('height, width', [(1, 1), (2, 3), (3, 1), (7, 9), (8, 5)])
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('kernel_size, dilation', [(3, 1), (3, 2), (1, 1), (5, 1), (5, 3)])
def test_size_is_that_of_the_convolution_it_replaces(height, width, stride, kernel_size, dilation):
    arguments = dict(kernel_size=kernel_size, stride=stride, padding=kernel_size // 2 * dilation, dilation=dilation)
    x = torch.rand(2, 6, height, width)
    out = ACmix(6, 8, **arguments)(x)
    assert out.shape == nn.Conv2d(6, 8, **arguments)(x).shape
    assert out.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('backend', BACKENDS)
def test_half_precision_model_trains(dtype, backend):
    layer = ACmix(8, 8, stride=2, backend=backend).to(dtype)
    x = torch.rand(1, 8, 9, 7, dtype=dtype, requires_grad=True)
    out = layer(x)
    out.float().sum().backward()
    assert out.dtype == dtype and out.isfinite().all()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in [x, *layer.parameters()])


def test_autocast_on_the_cpu():
    layer, x = ACmix(8, 8), torch.rand(1, 8, 9, 7)
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16  # as a convolution's
    assert (out.float() - layer(x)).abs().max() < 0.05


def test_position_bias_stays_in_the_graph():
    layer = ACmix(4, 4)
    layer(torch.rand(1, 4, 8, 8)).sum().backward()
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
    for module in model.modules():  # the loop of the published ResNet
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    initialize(model, dict(type='Kaiming', layer='Conv2d'))
    assert torch.equal(layer.shift_conv.weight, shifts)
    assert shifts[0, 5].nonzero().tolist() == [[1, 2]]


def test_rates_weigh_the_two_paths():
    layer, x = ACmix(8, 8), torch.rand(1, 8, 6, 6)
    parts = []
    with torch.no_grad():
        for rates in ((1, 0), (0, 1), (0.3, -2)):
            layer.attention_rate.fill_(rates[0])
            layer.conv_rate.fill_(rates[1])
            parts.append(layer(x))
    torch.testing.assert_close(parts[2], 0.3 * parts[0] - 2 * parts[1])


def test_bias_is_added_to_the_output():
    layer, x = ACmix(8, 8, bias=True), torch.rand(1, 8, 6, 6)
    before = layer(x)
    with torch.no_grad():
        layer.bias.copy_(torch.arange(8))
    torch.testing.assert_close(layer(x) - before, torch.arange(8.0).view(1, 8, 1, 1).expand_as(before))


def test_is_registered_once_under_its_name():
    assert MODELS.get('ACmix') is ACmix
    assert isinstance(build_conv_layer(dict(type='ACmix', num_heads=2), 6, 4, 3, padding=1), ACmix)


def test_a_batch_of_no_images_as_region_heads_have_them():
    layer = ACmix(4, 8, stride=2)
    out = layer(torch.zeros(0, 4, 7, 7))
    assert out.shape == (0, 8, 4, 4)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters() if parameter.requires_grad)


@pytest.mark.parametrize('kernel_size, stride', [(3, 1), (3, 2), (1, 1)])
def test_conv_module_takes_it_as_conv_cfg(kernel_size, stride):
    module = ConvModule(
        6,
        8,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        conv_cfg=dict(type='ACmix'),
        norm_cfg=dict(type='BN'),
    )
    assert module(torch.rand(2, 6, 9, 7)).shape == (2, 8, math.ceil(9 / stride), math.ceil(7 / stride))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(out_channels=10), 'out_channels must be a multiple of num_heads, got 10 and 4'),
        (dict(attention_kernel_size=6), 'attention_kernel_size must be odd.*6'),
        (dict(kernel_size=4), 'kernel_size must be odd.*4'),
        (dict(kernel_size=(3, 5)), r'kernel_size must be one number or two equal ones, got \(3, 5\)'),
        (dict(padding=0), 'padding must be 1, got 0'),
        (dict(groups=2), 'groups must be 1, got 2'),
        (dict(num_heads=0), 'num_heads must be a positive integer, got 0'),
        (dict(stride=0), 'stride must be a positive integer, got 0'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ACmix(**{'in_channels': 8, 'out_channels': 8, **arguments})


@pytest.mark.parametrize(
    'x, error, message',
    [
        (torch.rand(8, 9, 9), ValueError, r'takes \(B, 8, H, W\), H and W at least 1, got \(8, 9, 9\)'),
        (torch.rand(1, 4, 9, 9), ValueError, r'got \(1, 4, 9, 9\)'),
        (torch.rand(1, 8, 0, 9), ValueError, r'got \(1, 8, 0, 9\)'),
        (np.zeros((1, 8, 9, 9)), TypeError, 'takes a tensor, got ndarray'),
    ],
)
def test_bad_inputs_are_named(x, error, message):
    with pytest.raises(error, match=message):
        ACmix(8, 8)(x)


@pytest.mark.parametrize('shift_form', ['group', 'depthwise', 'frozen'])
@pytest.mark.parametrize('arguments', [dict(), dict(stride=2), dict(dilation=2), dict(kernel_size=5, num_heads=2)])
@pytest.mark.parametrize('size', [(9, 12), (1, 3)])
def test_the_convolution_path_is_the_same_dense_and_in_factors_with_gradients(monkeypatch, shift_form, arguments, size):
    layer = ACmix(6, 8, shift_form=shift_form, rates=(0, 0.7), **arguments).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += torch.randn_like(parameter) / 2
    x = torch.rand(2, 6, *size, dtype=torch.float64, requires_grad=True)
    results = []
    for cost in (-1e9, 1e9):
        monkeypatch.setattr(shift_conv, 'GROUPED', cost)
        out = layer(x)
        leaves = [x, *layer.parameters()]
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for factored, dense in zip(*results, strict=True):
        torch.testing.assert_close(dense, factored, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('channels, stride', [(16, 1), (128, 1), (128, 2)])  # dense, in factors, dense
def test_only_maps_of_the_attention_are_kept_for_backward(channels, stride):
    layer, x = ACmix(channels, channels, stride=stride), torch.rand(1, channels, 32, 32)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = {parameter.data_ptr() for parameter in layer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(x)
    maps = 3 * x.nbytes + 2 * out.nbytes  # input, key, value; query and the attention's output
    weights = layer.value.weight.nbytes  # with the rate in it
    few = 20_000  # coordinates, the rate
    assert sum(size for place, size in kept.items() if place not in parameters) < maps + weights + few


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('channels', [8, 160])
def test_tracers_pass(channels):
    layer, x = ACmix(channels, channels).eval(), torch.rand(1, channels, 9, 9)
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), layer(x))
    assert get_model_complexity_info(layer, (channels, 9, 9))['flops'] > 0


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('arguments', [dict(), dict(stride=2), dict(dilation=2)])
def test_is_exported_for_maps_of_any_size(arguments, strict):
    layer, x = ACmix(8, 8, **arguments).eval(), torch.rand(2, 8, 17, 19)
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(layer, (x,), dynamic_shapes=[{0: free, 2: free, 3: free}], strict=strict).module()
    for shape in ((2, 8, 17, 19), (1, 8, 9, 30)):
        x = torch.rand(shape)
        torch.testing.assert_close(exported(x), layer(x))


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_compiles_as_a_whole(stride, memory_format):
    layer, x = ACmix(8, 8, stride=stride), torch.rand(1, 8, 9, 9).contiguous(memory_format=memory_format)
    compiled = torch.compile(layer, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    gradients = [torch.autograd.grad(each(x).sum(), list(layer.parameters())) for each in (compiled, layer)]
    torch.testing.assert_close(*gradients)
