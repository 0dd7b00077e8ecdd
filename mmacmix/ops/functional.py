"""Neighbourhood attention: checks of the arguments and choice of the backend."""

from importlib.util import find_spec

import torch
from torch import Tensor

from .arguments import check_window
from .backends import reference, tiles
from .sizes import ceil_div
from .torch_versions import check_torch

#: In order of preference. 'triton' is not first, because so far its kernels have only run in Triton's interpreter.
BACKENDS = ('tiles', 'triton', 'reference')
_TRITON_TORCH = '2.4'  # torch.library.custom_op
_HAS_TRITON = find_spec('triton') is not None and torch.__version__ >= _TRITON_TORCH


def available_backends(device: str | torch.device = 'cpu') -> tuple[str, ...]:
    """Names of the backends that run on a device; ``'auto'`` chooses the first.

    Args:
        device: A torch device or its name. Default: ``'cpu'``.

    Raises:
        RuntimeError: PyTorch does not know the device.
    """
    has_triton = torch.device(device).type == 'cuda' and _HAS_TRITON
    return tuple(name for name in BACKENDS if name != 'triton' or has_triton)


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int = 7,
    stride: int = 1,
    dilation: int = 1,
    backend: str = 'auto',
) -> Tensor:
    """Multi-head attention of each query to the ``kernel_size`` x ``kernel_size`` keys around it.

    The attention path of ACmix (arXiv 2111.14556, section 3.2, equations 6 to 9): the output at query i is the sum
    of the values j in the window centred at i, weighted by ``softmax_j(query_i . key_j / sqrt(head_dim))``. Windows
    that extend beyond the border see the map reflected there, repeatedly where the map is smaller than the window.
    The softmax is computed in float32 or wider.

    All backends support first derivatives by ``backward`` and ``torch.autograd.grad``. Second derivatives and
    ``torch.func`` need ``'reference'``. Under ``torch.export``, ``torch.jit.trace`` and ``torch.compile``, ``'tiles'``
    consists of standard operations and accepts maps of any size.

    Args:
        query: ``(B, heads, head_dim, ceil(H / stride), ceil(W / stride))``. The query at (y, x) is centred at
            pixel (y * stride, x * stride).
        key: ``(B, heads, head_dim, H, W)``.
        value: ``(B, heads, head_dim, H, W)``.
        kernel_size: Side of the window, odd. Default: 7.
        stride: Step between queries in pixels. Default: 1.
        dilation: Step between the keys of a window in pixels. Default: 1.
        backend: ``'tiles'`` (any device), ``'triton'`` (CUDA devices, float32 and narrower, torch 2.4),
            ``'reference'`` (any device, slow) or ``'auto'``, currently ``'tiles'`` on all devices.
            Default: ``'auto'``.

    Returns:
        A tensor of the query's shape and dtype.

    Raises:
        ValueError: The shapes do not match, a size is out of range, or the backend is not available.
        LibraryError: ``'triton'`` is asked for, and torch is older than 2.4.
        TypeError: An argument is not a floating-point tensor, or the dtypes differ.
    """
    _check(query, key, value, kernel_size, stride, dilation)
    if backend == 'triton' and not _HAS_TRITON:
        check_torch(_TRITON_TORCH, "the backend 'triton'")
    names = available_backends(query.device)
    if query.dtype == torch.float64:  # the kernels accumulate in float32
        names = tuple(name for name in names if name != 'triton')
    if backend != 'auto' and backend not in names:
        raise ValueError(
            f"backend must be 'auto' or one of {names} on {query.device} in {query.dtype}, got {backend!r}"
        )
    if not query.shape[0]:  # an empty batch: the output stays in the graph, as that of a convolution does
        return query + key.sum() + value.sum()
    name = names[0] if backend == 'auto' else backend
    if name == 'triton':
        from .backends import triton_kernels as module
    else:
        module = tiles if name == 'tiles' else reference
    return module.neighborhood_attention(query, key, value, kernel_size, stride, dilation)


def _check(query: Tensor, key: Tensor, value: Tensor, kernel_size: int, stride: int, dilation: int) -> None:
    check_window(kernel_size, stride, dilation)
    kinds = [each.dtype if isinstance(each, Tensor) else type(each).__name__ for each in (query, key, value)]
    if not (kinds[0] == kinds[1] == kinds[2] and isinstance(query, Tensor) and query.is_floating_point()):
        raise TypeError(
            'query, key and value must be tensors of one floating-point dtype, got {}, {} and {}'.format(*kinds)
        )
    if not (query.dim() == key.dim() == 5 and min(key.shape[1:]) > 0):
        raise ValueError(
            'query, key and value must have shape (B, heads, head_dim, H, W), where only B may be 0, got '
            f'{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}'
        )
    wanted = (*key.shape[:3], *(ceil_div(side, stride) for side in key.shape[3:]))
    if key.shape != value.shape or tuple(query.shape) != wanted:
        raise ValueError(
            f'with stride {stride} and a key of shape {tuple(key.shape)}, value must have the same shape '
            f'and query {wanted}, got {tuple(value.shape)} and {tuple(query.shape)}'
        )
