"""The layers' mathematics written down pixel by pixel, in numpy and float64.

Maps are ``(H, W, C)``. The functions ``*_weights`` give the attention weights of one output pixel.
"""

from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


def randomised(module, std=0.3):
    """The module in float64 and evaluation mode, with random weights and statistics: no zeros, no exact shifts."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor) * std + 0.1)
            if name.endswith('running_var'):
                tensor.uniform_(0.5, 2)
    module.double().eval()  # the hosts' networks return None from eval()
    return module


def array(tensor):
    return tensor.detach().numpy()


def linear(module, x):
    """A linear layer or 1x1 convolution on the last axis."""
    out = x @ array(module.weight).reshape(len(module.weight), -1).T
    return out if module.bias is None else out + array(module.bias)


def batch_norm(norm, x):
    """Batch normalisation of the last axis in evaluation mode."""
    out = (x - array(norm.running_mean)) / np.sqrt(array(norm.running_var) + norm.eps) * array(norm.weight)
    return out if norm.bias is None else out + array(norm.bias)


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def reflected_window(pixel, shape, kernel_size, dilation=1):
    """The pixels of a window in row-major order, reflected at the borders as ``numpy.pad`` does."""
    reach = kernel_size // 2 * dilation
    rows, columns = (
        np.pad(np.arange(side), reach, mode='reflect')[centre : centre + 2 * reach + 1 : dilation]
        for centre, side in zip(pixel, shape, strict=True)
    )
    return [(row, column) for row in rows for column in columns]


def scattered(weights, pixels, shape):
    """A map ``(heads, H, W)`` of the weights ``(heads, pixels)``, summed where a pixel occurs several times."""
    out = np.zeros((len(weights), *shape))
    for weight, (row, column) in zip(weights.T, pixels, strict=True):
        out[:, row, column] += weight
    return out


def acmix_weights(layer, x, row, column):
    """``softmax_j(query_i . (key_j + position_i - position_j) / sqrt(head_dim))`` over a window: ``(heads, H, W)``."""
    height, width = x.shape[:2]
    coordinates = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1)
    position = linear(layer.position, coordinates)
    query, key = (linear(each, x).reshape(height, width, layer.num_heads, -1) for each in (layer.query, layer.key))
    centre = row * layer.stride[0], column * layer.stride[0]
    pixels = reflected_window(centre, (height, width), layer.attention_kernel_size, layer.dilation[0])
    keys = np.stack([key[pixel] + position[centre] - position[pixel] for pixel in pixels])
    return scattered(softmax(np.einsum('hd,khd->hk', query[centre], keys) * key.shape[-1] ** -0.5), pixels, x.shape[:2])


def patchwise_weights(layer, x, row, column):
    """The weights that the network computes from a query and its patch of keys: ``(groups, H, W)``."""
    pixels = reflected_window((row, column), x.shape[:2], layer.attention_kernel_size)
    keys = linear(layer.key, x)
    patch = np.stack([keys[pixel] for pixel in pixels], -1)
    hidden = np.concatenate((linear(layer.query, x[row, column]), patch.ravel()))
    norm1, _, linear1, norm2, _, linear2 = layer.weights
    for norm, module in ((norm1, linear1), (norm2, linear2)):
        hidden = linear(module, np.maximum(batch_norm(norm, hidden), 0))
    return scattered(hidden.reshape(-1, len(pixels)), pixels, x.shape[:2])


def padded_to_windows(layer, x):
    side = layer.window_size
    return np.pad(x, [(0, -x.shape[0] % side), (0, -x.shape[1] % side), (0, 0)])


def window_weights(layer, x, row, column):
    """The softmax over the pixels of a window on the same side of the seam: ``(heads, rows, columns)`` when padded."""
    side, shift, heads = layer.window_size, layer.shift_size, layer.num_heads
    padded = padded_to_windows(layer, x)
    rows, columns = padded.shape[:2]
    query, key, _ = np.moveaxis(linear(layer.qkv, padded).reshape(rows, columns, 3, heads, -1), 2, 0)
    rolled = (row - shift) % rows, (column - shift) % columns
    pixels, offsets = [], []
    for i in range(rolled[0] // side * side, (rolled[0] // side + 1) * side):
        for j in range(rolled[1] // side * side, (rolled[1] // side + 1) * side):
            pixel = (i + shift) % rows, (j + shift) % columns
            if (pixel[0] < shift, pixel[1] < shift) == (row < shift, column < shift):
                pixels.append(pixel)
                offsets.append((rolled[0] - i + side - 1) * (2 * side - 1) + rolled[1] - j + side - 1)
    logits = np.einsum('hd,khd->hk', query[row, column], np.stack([key[pixel] for pixel in pixels]))
    bias = array(layer.relative_position_bias_table)[offsets].T
    return scattered(softmax(logits * key.shape[-1] ** -0.5 + bias), pixels, (rows, columns))


def spatially_reduced(layer, x):
    """One layer-normalised vector per whole patch."""
    side = layer.sr_ratio
    if side == 1:
        return x
    rows, columns = (length // side for length in x.shape[:2])
    patches = x[: rows * side, : columns * side].reshape(rows, side, columns, side, -1)
    out = np.einsum('rycxi,oiyx->rco', patches, array(layer.reduce.weight)) + array(layer.reduce.bias)
    centred = out - out.mean(-1, keepdims=True)
    scale, shift = array(layer.norm.weight), array(layer.norm.bias)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.norm.eps) * scale + shift


def reduction_weights(layer, x, row, column):
    """The softmax over the pixels of the reduced map: ``(heads, h, w)``."""
    reduced = spatially_reduced(layer, x)
    key = np.split(linear(layer.key_value, reduced), 2, -1)[0].reshape(
        -1, layer.num_heads, x.shape[2] // layer.num_heads
    )
    query = linear(layer.query, x[row, column]).reshape(layer.num_heads, -1)
    weights = softmax(np.einsum('hd,khd->hk', query, key) * query.shape[-1] ** -0.5)
    return weights.reshape(-1, *reduced.shape[:2])


def lesa_weights(layer, x, row, column):
    """The softmax over all pixels of the normalised content and position logits: ``(heads, H, W)``."""
    height, width = x.shape[:2]
    heads, head_dim = layer.num_heads, len(layer.row_positions)
    projected = batch_norm(layer.projection[1], linear(layer.projection[0], x)).reshape(height, width, heads, -1)
    query, key = projected[row, column, :, :head_dim], projected[..., head_dim : 2 * head_dim]
    content = np.einsum('hd,yxhd->yxh', query, key)
    of_rows, of_columns = (
        query @ relative_positions(array(table), centre, side)
        for table, centre, side in ((layer.row_positions, row, height), (layer.column_positions, column, width))
    )
    position = (of_rows[:, :, None] + of_columns[:, None]).transpose(1, 2, 0)
    logits = batch_norm(layer.logits_norm, np.concatenate((content, position), -1)).reshape(-1, 2, heads).sum(1)
    return softmax(logits.T).reshape(heads, height, width)


def relative_positions(table, query, side):
    """The vectors ``(d, side)`` of all keys for a query, interpolated from border to border."""
    reach = table.shape[1] // 2
    places = [reach + reach * (key - query) / max(1, side - 1) for key in range(side)]
    return np.stack([np.interp(places, range(table.shape[1]), row) for row in table])


def shift_conv(path, projections):
    """The 3x3 convolution path: ``(H, W, inputs, head_dim)`` to ``(H, W, head_dim * heads)``, with zero padding."""
    height, width, _, head_dim = projections.shape
    features = np.einsum('ts,hwsd->hwdt', array(path.mixing), projections)
    if path.mixing_bias is not None:
        features = features + array(path.mixing_bias)
    padded = np.pad(features, ((1, 1), (1, 1), (0, 0), (0, 0)))
    kernels = array(path.weight).reshape(head_dim, -1, 9, 3, 3)
    out = 0
    for i in range(3):
        for j in range(3):
            out = out + np.einsum('dnt,hwdt->hwdn', kernels[..., i, j], padded[i : i + height, j : j + width])
    return out.reshape(height, width, -1)


def set_rates(layer, attention, convolution):
    nn.init.constant_(layer.attention_rate, attention)
    nn.init.constant_(layer.conv_rate, convolution)


@contextmanager
def kept_for_backward(layer):
    """Collect the sizes in bytes of stored tensors other than parameters, by address."""
    kept, parameters = {}, {parameter.data_ptr() for parameter in layer.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept
