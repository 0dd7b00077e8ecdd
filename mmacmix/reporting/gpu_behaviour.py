"""Checks of how the layers behave on a device: determinism, checkpoints, empty batches, CUDA graphs."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..layers import ACmix
from ..ops import neighborhood_attention
from ..ops.backends import choice
from .gpu_check import (
    DTYPES,
    KERNEL_SIZE,
    LAYER_BOUNDS,
    Check,
    Failed,
    Finding,
    Skipped,
    precise_float32,
    relative_error,
)


def behaviour_checks(device: torch.device) -> dict[str, Check]:
    """The checks by name."""
    checks: dict[str, Check] = {}
    for name in ('float32', 'bfloat16'):
        checks[f'determinism, {name}'] = partial(check_determinism, device, DTYPES[name])
        checks[f'determinism, tiles, {name}'] = partial(check_determinism_of_tiles, device, DTYPES[name])
    checks['checkpoint'] = partial(check_checkpoint, device)
    checks['empty batch'] = partial(check_empty_batch, device)
    checks['CUDA graph'] = partial(check_cuda_graph, device)
    return checks


def check_determinism(device: torch.device, dtype: torch.dtype) -> Finding:
    """Whether two backward passes of an ACmix layer give bit-identical gradients."""
    if device.type == 'cuda' and choice.choose(device, dtype, 16, (KERNEL_SIZE, 1, 1)) == 'tiles':
        raise Skipped("'tiles' serves, which is deterministic on GPUs only where PyTorch is asked to be")
    layer = ACmix(64, 64).to(device, dtype)
    x = torch.randn(2, 64, 50, 84).to(device, dtype).requires_grad_()
    weight = torch.randn(2, 64, 50, 84).to(device, dtype)
    leaves = dict(layer.named_parameters()) | dict(input=x)
    with precise_float32():
        _check_equal_passes(lambda: layer(x), leaves, weight)
    return Finding(f'{len(leaves)} gradients of an ACmix layer are bit-identical in two passes')


def check_determinism_of_tiles(device: torch.device, dtype: torch.dtype) -> Finding:
    """As ``check_determinism``, of the backend ``'tiles'`` with PyTorch's deterministic algorithms."""
    query, key, value, weight = (torch.randn(2, 4, 16, 50, 84).to(device, dtype) for _ in range(4))
    leaves = {name: each.requires_grad_() for name, each in dict(query=query, key=key, value=value).items()}
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        _check_equal_passes(lambda: neighborhood_attention(query, key, value, backend='tiles'), leaves, weight)
    finally:
        torch.use_deterministic_algorithms(before)
    return Finding(f'{len(leaves)} gradients are bit-identical in two passes with deterministic algorithms')


def _check_equal_passes(compute: Callable[[], Tensor], leaves: Mapping[str, Tensor], weight: Tensor) -> None:
    first, second = (torch.autograd.grad(compute(), list(leaves.values()), weight) for _ in range(2))
    differing = [name for name, *pair in zip(leaves, first, second, strict=True) if not torch.equal(*pair)]
    if differing:
        raise Failed(f'two backward passes give different gradients of {", ".join(differing)}')


def check_checkpoint(device: torch.device) -> Finding:
    """A layer whose backend is chosen within a checkpoint, as with ``with_cp=True``."""
    layer = ACmix(64, 64, attention_kernel_size=5).to(device)  # a window that no other check has chosen for
    x = torch.randn(2, 64, 17, 13, device=device, requires_grad=True)
    leaves = [x, *layer.parameters()]
    with precise_float32():
        outputs = checkpoint(layer, x, use_reentrant=False), layer(x)
        gradients = [torch.autograd.grad(each.square().sum(), leaves) for each in outputs]
    error = max(relative_error(a, b.cpu().double(), 1 + b.abs().max().item()) for a, b in zip(*gradients, strict=True))
    if not error <= 1e-5:
        raise Failed(f'gradients with and without a checkpoint differ by {error:.1e}')
    return Finding(f'gradients of an ACmix layer with and without a checkpoint differ by {error:.1e}')


def check_empty_batch(device: torch.device) -> Finding:
    """Forward and backward of a layer without images, as a detector's head may see them."""
    layer = ACmix(64, 64).to(device)
    out = layer(torch.randn(0, 64, 17, 13, device=device))
    out.sum().backward()
    without = [name for name, parameter in layer.named_parameters() if parameter.grad is None]
    if out.shape != (0, 64, 17, 13) or without:
        raise Failed(f'the output has the shape {tuple(out.shape)}; parameters without a gradient: {without}')
    return Finding('an ACmix layer gives an empty map and zero gradients')


def check_cuda_graph(device: torch.device) -> Finding:
    """A layer in a CUDA graph, replayed with another input."""
    if device.type != 'cuda':
        raise Skipped('CUDA graphs need a GPU')
    layer, (x, other) = ACmix(64, 64).to(device), torch.randn(2, 2, 64, 17, 13, device=device)
    with torch.no_grad(), precise_float32():
        expected = layer(other)  # chooses the backend before the capture
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = layer(x)
        x.copy_(other)
        graph.replay()
        error = relative_error(out, expected.cpu().double())
    if not error <= LAYER_BOUNDS[torch.float32]:
        raise Failed(f'the replayed graph differs from the layer by {error:.1e}')
    return Finding(f'the replayed graph of an ACmix layer differs from the layer by {error:.1e}')
