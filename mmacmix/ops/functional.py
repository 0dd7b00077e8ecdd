"""Neighbourhood attention: checks of the arguments and choice of the backend."""

import operator

import torch
from torch import Tensor

from .arguments import check_window
from .backends import choice, recorded_tiles, reference, tiles
from .exporting import is_exporting, is_recording
from .sizes import ceil_div
from .torch_versions import check_torch, is_compiling


def available_backends(device: str | torch.device = 'cpu') -> tuple[str, ...]:
    """Names of the backends that run on a device; ``'auto'`` prefers the first.

    Args:
        device: A torch device or its name. Default: ``'cpu'``.

    Raises:
        RuntimeError: PyTorch does not know the device.
    """
    device = torch.device(device)
    if device.type != 'cuda' or not choice.HAS_TRITON:
        return 'tiles', 'reference'
    return ('triton', 'tiles', 'reference') if choice.runs_kernels(device) else ('tiles', 'triton', 'reference')


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
            ``'reference'`` (any device, slow) or ``'auto'``: ``'triton'`` on NVIDIA GPUs of compute capability 8.0 and
            newer, where its kernels have passed a check, else ``'tiles'``. The environment variable
            ``MMACMIX_BACKEND`` and the context ``mmacmix.ops.backend`` set what ``'auto'`` stands for.
            Default: ``'auto'``.

    Returns:
        A tensor of the query's shape and dtype.

    Raises:
        ValueError: The shapes do not match, a size is out of range, or the backend is not available.
        LibraryError: ``'triton'`` is asked for, and torch is older than 2.4.
        TypeError: An argument is not a floating-point tensor, or the dtypes differ.
        RuntimeError: A CUDA graph is being captured before ``'auto'`` was resolved.
    """
    _check(query, key, value, kernel_size, stride, dilation)
    name = resolve_backend(backend, query, query.dtype, query.shape[2], (kernel_size, stride, dilation))
    if not query.shape[0]:  # an empty batch: the output stays in the graph, as that of a convolution does
        return query + key.sum() + value.sum()
    if name == 'triton':
        from .backends import triton_kernels as module
    elif name == 'tiles':
        module = recorded_tiles if is_recording() else tiles
    else:
        module = reference
    return module.neighborhood_attention(query, key, value, kernel_size, stride, dilation)


def resolve_backend(backend: str, like: Tensor, dtype: torch.dtype, head_dim: int, window: tuple[int, int, int]) -> str:
    """The backend's name, ``'auto'`` resolved, for maps of a dtype on the device of ``like``.

    Args:
        window: Kernel size, stride and dilation.

    Raises:
        ValueError: It is not available.
    """
    # Compilers choose while they record, which takes numbers.
    case = dtype, operator.index(head_dim), tuple(map(operator.index, window))
    if backend == 'auto':
        is_fake = not is_compiling() and type(like.new_empty(0)) is not Tensor
        if is_exporting() or is_fake:  # the choice computes something
            return 'tiles'
        backend = choice.choose(like.device, *case)
    if backend == 'triton' and not choice.HAS_TRITON:
        check_torch(choice.TRITON_TORCH, "the backend 'triton'")
    names = available_backends(like.device)
    if 'triton' in names and not choice.supports(*case):
        names = tuple(name for name in names if name != 'triton')
    if backend not in names:
        raise ValueError(
            f"backend must be 'auto' or one of {names} on {like.device} in {dtype} with head_dim {head_dim} and "
            f'kernel size, stride and dilation {window}, got {backend!r}'
        )
    return backend


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
