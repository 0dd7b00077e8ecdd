"""Random inputs of neighbourhood attention, and its results on them."""

import math

import torch


def random_maps(shape, stride=1, dtype=torch.float64, channels_last=False, device='cpu'):
    """Query, key, value of shape ``(B, heads, head_dim, H, W)``, and a gradient of the output."""
    *outer, height, width = shape
    subsampled = (*outer, math.ceil(height / stride), math.ceil(width / stride))
    sizes = subsampled, shape, shape, subsampled
    maps = [torch.randn(size, dtype=torch.float64).to(device, dtype) for size in sizes]
    if channels_last:
        maps = [each.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for each in maps]
    return maps


def output_and_gradients(attend, maps, *arguments, dtype=None):
    """The output of ``attend``, and the gradients of query, key and value, computed in ``dtype``."""
    *inputs, grad = [each.detach().to(dtype or each.dtype) for each in maps]
    inputs = [each.requires_grad_() for each in inputs]
    out = attend(*inputs, *arguments)
    return out, *torch.autograd.grad(out, inputs, grad)
