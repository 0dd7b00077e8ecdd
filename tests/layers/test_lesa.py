"""LESA equals its definition, with gradients and statistics, whatever the size of the map."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mmacmix.layers import LESA
from mmacmix.ops import global_attention, relative_positions
from tests.layers import definitions
from tests.layers.definitions import array, kept_for_backward, linear, randomised


def normalised(values, norm, dims):
    """Batch normalisation by the statistics of the batch."""
    mean, variance = values.mean(dims, keepdim=True), values.var(dims, correction=0, keepdim=True)
    shape = [-1 if dim not in dims else 1 for dim in range(values.dim())]
    out = (values - mean) / (variance + norm.eps).sqrt() * norm.weight.view(shape)
    return out if norm.bias is None else out + norm.bias.view(shape)


def slow_logits(layer, query, key):
    """Content and position logits ``(2, B, heads, N, N)``, pixel by pixel, for maps of ``position_size``."""
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
    """Self-attention with explicit logits, normalised by their own statistics, and these logits."""
    heads, width = layer.num_heads, len(layer.row_positions)
    qkv = normalised(nn.functional.conv2d(x, layer.projection[0].weight), layer.projection[1], (0, 2, 3))
    query, key, value = qkv.unflatten(1, (heads, -1)).split((width, width, 2 * width), 2)
    logits = slow_logits(layer, query, key)
    joined = normalised(torch.cat(list(logits), 1), layer.logits_norm, (0, 2, 3))
    weights = joined.unflatten(1, (2, heads)).sum(1).softmax(-1)
    out = torch.einsum('bhij,bhcj->bhci', weights, value.flatten(3)).reshape(x.shape[0], -1, *x.shape[2:])
    return normalised(out, layer.binary_norm, (0, 2, 3)), logits


def slow_unary(layer, x):
    """A group convolution, tap by tap, and a 1x1 convolution."""
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
def test_all_terms_equal_their_definitions_with_gradients(side, stride):
    layer = randomised(LESA(4, 8, stride=stride, num_heads=2, position_size=side), std=0.5).train()
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
def test_chunks_of_query_rows_give_the_same_output_and_gradients(rows, monkeypatch):
    layer, x = randomised(LESA(4, 8, num_heads=2), std=0.5).train(), torch.randn(2, 4, 7, 3, dtype=torch.float64)
    leaves = list(layer.parameters())
    at_once = layer(x)
    monkeypatch.setattr(global_attention, '_LOGITS', rows * 2 * 2 * 7 * 3 * 3)
    in_parts = layer(x)
    torch.testing.assert_close(in_parts, at_once)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), leaves) for out in (in_parts, at_once)))


def test_memory_for_backward_is_nearly_linear_in_pixels(monkeypatch):
    monkeypatch.setattr(global_attention, '_LOGITS', 1)
    layer, sizes = LESA(16, 16), []
    for side in (16, 32):
        with kept_for_backward(layer) as kept:
            layer(torch.rand(1, 16, side, side))
        sizes.append(sum(kept.values()))
    assert sizes[1] / sizes[0] < 8  # position logits are of order 1.5; full logits would grow 16 times


def test_running_statistics_equal_those_of_batch_normalisation():
    layer = randomised(LESA(4, 8, num_heads=2, position_size=4), std=0.5).train()
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    truth = nn.BatchNorm2d(4).double()
    truth.load_state_dict(layer.logits_norm.state_dict(), strict=False)  # without a bias
    truth(torch.cat(list(slow_binary(layer, x)[1]), 1))
    layer(x)
    for name in ('running_mean', 'running_var', 'num_batches_tracked'):
        torch.testing.assert_close(getattr(layer.logits_norm, name), getattr(truth, name), rtol=1e-12, atol=1e-12)


def test_evaluation_normalises_logits_by_running_statistics():
    layer, x = randomised(LESA(4, 8, num_heads=2, position_size=4)), torch.randn(1, 4, 4, 4, dtype=torch.float64)
    before = layer.logits_norm.running_var.clone()
    image = x[0].permute(1, 2, 0).numpy()
    value = definitions.batch_norm(layer.projection[1], linear(layer.projection[0], image)).reshape(4, 4, 2, 8)[..., 4:]
    out = array(layer._attention(x)[0].permute(1, 2, 0))
    for pixel in np.ndindex(4, 4):
        expected = np.einsum('hyx,yxhd->hd', definitions.lesa_weights(layer, image, *pixel), value).ravel()
        assert np.abs(out[pixel] - expected).max() <= 1e-10
    assert torch.equal(layer.logits_norm.running_var, before)


@pytest.mark.parametrize('side', [1, 2, 5, 9, 14])
def test_positions_are_interpolated_from_border_to_border(side):
    table = torch.randn(3, 9, dtype=torch.float64)
    vectors = relative_positions(table, side)
    assert vectors.shape == (3, side, side)
    for query in range(side):
        expected = definitions.relative_positions(table.numpy(), query, side)
        torch.testing.assert_close(vectors[:, query], torch.from_numpy(expected))
    if side == 5:
        assert torch.equal(vectors[:, 1, 3], table[:, 6]) and torch.equal(vectors[:, 4, 0], table[:, 0])


def test_all_parameters_get_gradients():
    layer = LESA(16, 16)
    layer(torch.rand(2, 16, 5, 4)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())


def test_paths_add_up_to_the_output():
    layer, x = randomised(LESA(4, 8, stride=2, num_heads=2)), torch.randn(1, 4, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(sum(layer.paths(x)), layer(x))
