import importlib
import math

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS
from torch import nn

from mmacmix.layers import LESA
from mmacmix.ops import relative_positions

global_attention = importlib.import_module('mmacmix.ops.global_attention')  # the function has the same name


def drawn(layer):
    """With weights that differ, in float64."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.double()


def normalised(values, norm, dims):
    """Batch normalisation of the batch itself, from its definition."""
    mean, variance = values.mean(dims, keepdim=True), values.var(dims, correction=0, keepdim=True)
    shape = [-1 if dim not in dims else 1 for dim in range(values.dim())]
    out = (values - mean) / (variance + norm.eps).sqrt() * norm.weight.view(shape)
    return out if norm.bias is None else out + norm.bias.view(shape)


def slow_logits(layer, query, key):
    """Both terms ``(2, B, heads, N, N)`` pixel by pixel, for maps of the tables' own size."""
    batch, heads, _, height, width = query.shape
    pixels = list(np.ndindex(height, width))
    out = torch.zeros(2, batch, heads, len(pixels), len(pixels), dtype=query.dtype)
    for image, head in np.ndindex(batch, heads):
        for i, (y, x) in enumerate(pixels):
            for j, (v, u) in enumerate(pixels):
                row = layer.row_positions[:, v - y + layer.row_positions.shape[1] // 2]
                column = layer.column_positions[:, u - x + layer.column_positions.shape[1] // 2]
                out[0, image, head, i, j] = query[image, head, :, y, x] @ key[image, head, :, v, u]
                out[1, image, head, i, j] = query[image, head, :, y, x] @ (row + column)
    return out


def slow_binary(layer, x):
    """Self-attention with all logits written down, and normalised as batch normalisation is defined."""
    heads, width = layer.num_heads, len(layer.row_positions)
    qkv = normalised(nn.functional.conv2d(x, layer.projection[0].weight), layer.projection[1], (0, 2, 3))
    query, key, value = qkv.unflatten(1, (heads, -1)).split((width, width, 2 * width), 2)
    logits = slow_logits(layer, query, key)
    joined = normalised(torch.cat(list(logits), 1), layer.logits_norm, (0, 2, 3))
    weights = joined.unflatten(1, (2, heads)).sum(1).softmax(-1)
    out = torch.einsum('bhij,bhcj->bhci', weights, value.flatten(3)).reshape(x.shape[0], -1, *x.shape[2:])
    return normalised(out, layer.binary_norm, (0, 2, 3)), logits


def slow_unary(layer, x):
    """A convolution in groups, tap by tap, and a 1x1 convolution."""
    grouped, pointwise = layer.unary[0].weight, layer.unary[1].weight[..., 0, 0]
    inside, outside = grouped.shape[1], len(grouped) // layer.num_heads
    batch, _, height, width = x.shape
    middle = torch.zeros(batch, len(grouped), height, width, dtype=x.dtype)
    for image, channel, row, column in np.ndindex(*middle.shape):
        total = 0
        for y, z in np.ndindex(3, 3):
            v, u = row + y - 1, column + z - 1
            if 0 <= v < height and 0 <= u < width:
                first = channel // outside * inside
                total = total + grouped[channel, :, y, z] @ x[image, first : first + inside, v, u]
        middle[image, channel, row, column] = total
    return normalised(torch.einsum('oc,bcyx->boyx', pointwise, middle), layer.unary[2], (0, 2, 3))


def slow_gate(layer, unary, binary):
    joined = torch.cat((unary, binary), 1).clamp(min=0)
    for conv, norm in ((1, 2), (4, 5)):
        weight = layer.gate[conv].weight[..., 0, 0]
        joined = normalised(torch.einsum('oc,bcyx->boyx', weight, joined), layer.gate[norm], (0, 2, 3))
        joined = joined.clamp(min=0) if conv == 1 else 1 / (1 + (-joined).exp())
    return joined


@pytest.mark.parametrize('side, stride', [(4, 1), (4, 2), (3, 2)])
def test_all_terms_are_the_slow_loops_with_gradients(side, stride):
    layer = drawn(LESA(4, 8, stride=stride, num_heads=2, position_size=side))
    x = torch.randn(2, 4, side, side, dtype=torch.float64, requires_grad=True)
    unary, (binary, _) = slow_unary(layer, x), slow_binary(layer, x)
    gated = slow_gate(layer, unary, binary) * binary
    slow = unary + gated
    height = math.ceil(side / stride)
    pooled = [slow[..., stride * y : stride * (y + 1), :] for y in range(height)]
    pooled = [row[..., stride * z : stride * (z + 1)].mean((2, 3)) for row in pooled for z in range(height)]
    slow = torch.stack(pooled, 2).unflatten(2, (height, height))

    attention, convolution = layer._terms(x)
    assert (convolution - unary).abs().max() <= 1e-10
    assert (layer.binary_norm(layer._attention(x)) - binary).abs().max() <= 1e-10
    assert (attention - gated).abs().max() <= 1e-10
    out = layer(x)
    assert (out - slow).abs().max() <= 1e-10
    leaves = [x, *layer.parameters()]
    g = torch.randn_like(slow)
    fast, slow = (torch.autograd.grad(each, leaves, g) for each in (out, slow))
    assert all((a - b).abs().max() <= 1e-10 for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize('rows', [1, 2, 3])
def test_queries_are_worked_through_by_some_rows_at_a_time(rows, monkeypatch):
    layer, x = drawn(LESA(4, 8, num_heads=2)), torch.randn(2, 4, 7, 3, dtype=torch.float64)
    leaves = list(layer.parameters())
    at_once = layer(x)
    monkeypatch.setattr(global_attention, '_LOGITS', rows * 2 * 2 * 7 * 3 * 3)
    in_parts = layer(x)
    torch.testing.assert_close(in_parts, at_once)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), leaves) for out in (in_parts, at_once)))


def test_memory_for_backward_grows_with_the_number_of_pixels_alone(monkeypatch):
    monkeypatch.setattr(global_attention, '_LOGITS', 1)
    layer, kept = LESA(16, 16), []
    for side in (16, 32):
        storages = {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            layer(torch.rand(1, 16, side, side))
        kept.append(sum(storages.values()))
    assert kept[1] / kept[0] < 8  # rows' and columns' logits grow with the side, too; all logits would grow 16 times


def test_running_statistics_are_those_of_batch_normalisation():
    layer = drawn(LESA(4, 8, num_heads=2, position_size=4))
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    truth = nn.BatchNorm2d(4).double()
    truth(torch.cat(list(slow_binary(layer, x)[1]), 1))
    layer(x)
    for name in ('running_mean', 'running_var', 'num_batches_tracked'):
        torch.testing.assert_close(getattr(layer.logits_norm, name), getattr(truth, name), rtol=1e-12, atol=1e-12)


def test_evaluation_normalises_by_running_statistics():
    layer = drawn(LESA(4, 8, num_heads=2, position_size=4))
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    layer(x)
    layer.eval()
    width = len(layer.row_positions)
    query, key, value = layer.projection(x).unflatten(1, (2, -1)).split((width, width, 2 * width), 2)
    logits = layer.logits_norm(torch.cat(list(slow_logits(layer, query, key)), 1)).unflatten(1, (2, 2)).sum(1)
    out = torch.einsum('bhij,bhcj->bhci', logits.softmax(-1), value.flatten(3)).reshape(2, 8, 4, 4)
    assert (layer._attention(x) - out).abs().max() <= 1e-10
    before = layer.logits_norm.running_var.clone()
    layer(x)
    assert torch.equal(layer.logits_norm.running_var, before)


@pytest.mark.parametrize('side', [1, 2, 5, 9, 14])
def test_positions_of_another_size_are_interpolated_from_border_to_border(side):
    table = torch.randn(3, 9, dtype=torch.float64)
    vectors = relative_positions(table, side)
    assert vectors.shape == (3, side, side)
    for query, key in np.ndindex(side, side):
        place = 4 + 4 * (key - query) / max(1, side - 1)
        expected = [np.interp(place, range(9), row) for row in table.numpy()]
        torch.testing.assert_close(vectors[:, query, key], torch.tensor(expected))
    if side == 5:
        assert torch.equal(vectors[:, 1, 3], table[:, 6]) and torch.equal(vectors[:, 4, 0], table[:, 0])


def test_a_batch_of_no_images_as_region_heads_have_them():
    layer = LESA(16, 16, stride=2)
    out = layer(torch.zeros(0, 16, 7, 7))
    assert out.shape == (0, 16, 4, 4)
    out.sum().backward()
    assert all(buffer.isfinite().all() for buffer in layer.buffers())


@pytest.mark.parametrize('height, width', [(1, 1), (1, 4), (5, 3), (20, 31)])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_any_size_has_the_convolutions_shape(height, width, stride):
    layer, x = LESA(16, 32, stride=stride), torch.rand(2, 16, height, width)
    out = layer(x)
    assert out.shape == nn.Conv2d(16, 32, 3, stride, 1)(x).shape and out.isfinite().all()


def test_all_parameters_learn():
    layer = LESA(16, 16)
    layer(torch.rand(2, 16, 5, 4)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize('pixel', [(0, 0), (2, 3)])
def test_attention_map_holds_the_weights_of_the_values(pixel):
    layer, x = drawn(LESA(4, 8, num_heads=2)).eval(), torch.randn(1, 4, 4, 5, dtype=torch.float64)
    query, key, value, rows, columns = layer._project(x)
    value = value.detach().requires_grad_()
    layer._project = lambda x: (query, key, value, rows, columns)
    out = layer._attention(x)
    weights = layer.attention_map(x, tuple((at + 0.5) / side for at, side in zip(pixel, (4, 5), strict=True)))
    for head in range(2):
        (gradient,) = torch.autograd.grad(out[0, 4 * head, pixel[0], pixel[1]], value, retain_graph=True)
        torch.testing.assert_close(weights[head], gradient[0, head, 0])
        assert weights[head].sum().item() == pytest.approx(1)


def test_paths_add_up_to_the_output():
    layer, x = drawn(LESA(4, 8, stride=2, num_heads=2)).eval(), torch.randn(1, 4, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(sum(layer.paths(x)), layer(x))


def test_stands_in_a_conv_module_and_is_registered():
    assert MODELS.get('LESA') is LESA
    module = ConvModule(8, 16, 3, stride=2, padding=1, conv_cfg=dict(type='LESA'), norm_cfg=dict(type='BN'))
    assert module(torch.rand(2, 8, 9, 7)).shape == (2, 16, 5, 4)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(out_channels=24), r'out_channels must be a multiple of 2 \* num_heads, got 24 and 16'),
        (dict(in_channels=12), 'in_channels must be a multiple of num_heads, got 12 and 8'),
        (dict(groups=2), 'LESA has no groups: groups must be 1, got 2'),
        (dict(position_size=0), 'position_size must be a positive integer, got 0'),
        (dict(kernel_size=2), 'kernel_size must be odd.*2'),
        (dict(padding=2), 'LESA keeps the size of its input: .* padding must be 1, got 2'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LESA(**{'in_channels': 16, 'out_channels': 16, **arguments})


def test_bad_inputs_are_named():
    with pytest.raises(ValueError, match=r'LESA takes \(B, 16, H, W\), H and W at least 1, got \(16, 9, 9\)'):
        LESA(16, 16)(torch.rand(16, 9, 9))
