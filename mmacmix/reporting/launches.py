"""Kernel launches and memory traffic of a layer or a network on a CUDA GPU, counted without one.

The forward and backward pass run on tensors of the device ``'meta'``, which have shapes and no memory. To the code that
runs they claim to be on a CUDA device, so it takes the choices that it takes there. Every operation that reaches
PyTorch's dispatcher is counted by these rules:

- Views and uninitialised tensors launch nothing. Any other operation launches one kernel, which reads each input once
  and writes each output once, unless ``_RULES`` says otherwise. Kernels that PyTorch splits further, such as the
  gradient of a normalisation, count as one.
- Elements that a tensor repeats, by expansion or overlapping views, are read once.
- Convolutions follow cuDNN: the output is channels_last if the input or the weight is. Conversions of weights between
  memory formats within a convolution are not counted.
- Autograd copies the gradient of a parameter that has another memory format than the parameter, as it does on a GPU.
- ``scaled_dot_product_attention`` is the memory-efficient kernel. A mask whose rows are not aligned is padded first.
- The package's own operators launch the kernels that ``OPERATORS`` lists.

Work on CPU tensors is not counted; copying one to the GPU is a launch.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from ..ops import check_torch

# The modelled GPU.
LAUNCH_SECONDS = 5e-6  #: Time from one launch to the next.
BYTES_PER_SECOND = 3e12  #: Memory bandwidth.


class Traffic(NamedTuple):
    """Launches of an operation, and the bytes that its kernels move."""

    launches: int
    read: int
    written: int

    def __add__(self, other: 'Traffic') -> 'Traffic':
        return Traffic(*(a + b for a, b in zip(self, other, strict=True)))


class Operation(NamedTuple):
    """An operation that launches kernels."""

    name: str
    launches: int
    read: int  # bytes
    written: int  # bytes
    shapes: tuple[tuple[int, ...], ...]  # of its inputs


class Summary(NamedTuple):
    """Totals of several operations, and the modelled time."""

    launches: int
    bytes: int
    seconds: float


def count_launches(
    module: nn.Module | Callable[..., Any], inputs: Tensor | Sequence[Tensor], backward: bool = False
) -> list[Operation]:
    """List the operations of a forward pass that launch kernels, or of a forward and backward pass.

    One run precedes the counted one, so that tables that are cached for a size of input are not counted.

    Args:
        module: A module, which is copied, or a function. All tensors of a function but its inputs must be on the
            device ``'meta'``.
        inputs: The input or inputs, on any device; only shape, strides, dtype and ``requires_grad`` matter.
        backward: Also count the gradients with respect to all parameters and inputs that require them. Forward alone
            is counted without autograd. The gradients are new: nothing is added to earlier ones. Default: ``False``.

    Raises:
        LibraryError: torch is older than 2.4.
    """
    check_torch('2.4', 'counting launches')
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    inputs = [each.detach().to('meta').requires_grad_(each.requires_grad) for each in inputs]
    if isinstance(module, nn.Module):
        module = deepcopy(module).to('meta')
    # Checkpoints compare devices, and would see the true and the pretended one.
    checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
    with pretended_gpu(), mock.patch.dict(checks, default=lambda tensor: tensor.shape):
        for _ in range(2):
            counter = Counter()
            leaves = [*inputs, *(module.parameters() if isinstance(module, nn.Module) else ())]
            for leaf in leaves:
                leaf.grad = None
            with counter, torch.set_grad_enabled(backward):
                outputs = tensors(module(*inputs))
                if backward:
                    outputs = [each for each in outputs if each.requires_grad]
                    grads = tuple(torch.empty_like(each) for each in outputs)
                    # torch.autograd.backward would leave `MetaAsCuda` while it calls the code under test.
                    run_backward = torch.autograd.Variable._execution_engine.run_backward
                    run_backward(tuple(outputs), grads, False, False, (), accumulate_grad=True)
    return counter.operations


def summarize(operations: Iterable[Operation]) -> Summary:
    """Add up operations. A GPU that is limited by launches or by memory takes the larger of the two times."""
    operations = list(operations)
    launches = sum(each.launches for each in operations)
    moved = sum(each.read + each.written for each in operations)
    return Summary(launches, moved, max(launches * LAUNCH_SECONDS, moved / BYTES_PER_SECOND))


def group_operations(operations: Iterable[Operation]) -> list[Operation]:
    """Add up operations of the same name and shapes, in the order of their first occurrence."""
    groups: dict[tuple, Operation] = {}
    for each in operations:
        key = each.name, each.shapes
        traffic = Traffic(*each[1:4])
        if key in groups:
            traffic += Traffic(*groups[key][1:4])
        groups[key] = Operation(each.name, *traffic, each.shapes)
    return list(groups.values())


# -- the device ------------------------------------------------------------------------------------


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """``MetaAsCuda``, in which the machine's own GPUs, if it has any, do not matter."""
    no_gpus = mock.patch.multiple(torch.cuda, is_available=lambda: False, is_initialized=lambda: False)
    with no_gpus, MetaAsCuda():
        yield


class MetaAsCuda(TorchFunctionMode):
    """Make tensors on the device ``'meta'`` claim to be on a CUDA device, and create CUDA tensors on ``'meta'``."""

    _DEVICE = torch.device('cuda', 127)  # no machine has it: caches by device stay apart from those of real devices

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # Within this method, tensors give their true device.
        if func == Tensor.device.__get__ and args[0].is_meta:
            return self._DEVICE
        if func == Tensor.is_cuda.__get__ and args[0].is_meta:
            return True
        if func is torch.device:
            return func(*args, **kwargs)
        args, kwargs = tree_map(self._on_meta, (list(args), kwargs))
        if isinstance(kwargs.get('device'), str):
            kwargs['device'] = self._on_meta(torch.device(kwargs['device']))
        # Only maps with four axes, and as many heads of keys as of queries, have the kernel.
        fused = func is F.scaled_dot_product_attention and not kwargs.get('enable_gqa')
        if fused and args and args[0].is_meta and args[0].dim() == 4:
            kwargs.pop('enable_gqa', None)
            return _memory_efficient_attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _on_meta(self, argument: Any) -> Any:
        is_cuda = isinstance(argument, torch.device) and argument.type == 'cuda'
        return torch.device('meta') if is_cuda else argument


def _memory_efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """What ``scaled_dot_product_attention`` does on CUDA around its kernel; on 'meta' it has no fused kernel."""
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), -math.inf)
        if attn_mask.stride(-1) != 1 or any(stride % 8 for stride in attn_mask.stride()[:-1]):
            keys = attn_mask.shape[-1]
            attn_mask = F.pad(attn_mask, (0, 8 - keys % 8))[..., :keys]
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    needs_lse = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    return attend(query, key, value, attn_mask, needs_lse, dropout_p, is_causal, scale=scale)[0]


# -- the count -------------------------------------------------------------------------------------


class Counter(TorchDispatchMode):
    """Records the operations on tensors of the device ``'meta'`` that would launch kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            results = func(*args, **kwargs)
            if func.overloadpacket in (torch.ops.aten.convolution, torch.ops.aten.convolution_backward):
                results = _as_cudnn_returns(results, args)
            arguments = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | kwargs
            given = tensors(arguments)
            on_gpu = any(each.is_meta for each in given + tensors(results))
            if on_gpu and not (func.is_view or func.overloadpacket.__name__ in _NO_KERNELS):
                traffic = _traffic(func, arguments, results)
                shapes = tuple(tuple(each.shape) for each in given)
                self.operations.append(Operation(func.overloadpacket.__name__, *traffic, shapes))
        return results


_NO_KERNELS = {
    '_unsafe_view',
    'empty',
    'empty_like',
    'empty_strided',
    'lift_fresh',
    'new_empty',
    'new_empty_strided',
    'resize_',
    'set_',
}


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of a nested structure."""
    return [each for each in tree_flatten(tree)[0] if isinstance(each, Tensor)]


def size(tree: Any) -> int:
    """Bytes of the distinct elements of all tensors in a nested structure; those on a CPU are not counted."""
    return sum(map(_size, tensors(tree)))


def _size(tensor: Tensor) -> int:
    if tensor.numel() == 0 or not tensor.is_meta:
        return 0
    axes = list(zip(tensor.shape, tensor.stride(), strict=True))
    not_expanded = math.prod(length for length, stride in axes if stride != 0)
    extent = 1 + sum((length - 1) * stride for length, stride in axes)  # bounds overlapping views
    return min(not_expanded, extent) * tensor.element_size()


def _as_cudnn_returns(results: Any, args: Sequence[Any]) -> Any:
    """Results of a convolution or its gradient in the memory format of cuDNN, which 'meta' does not know."""
    channels_last = torch.channels_last

    def prefers(each: Any) -> bool:
        return _is_map(each) and each.is_contiguous(memory_format=channels_last) and not each.is_contiguous()

    if not any(map(prefers, args[:3])):
        return results
    return tree_map(
        lambda each: each.contiguous(memory_format=channels_last) if _is_map(each) else each,
        results,
    )


def _is_map(each: Any) -> bool:
    return isinstance(each, Tensor) and each.dim() == 4


def _traffic(func: Any, arguments: dict[str, Any], results: Any) -> Traffic:
    name = func.overloadpacket.__name__
    if func.namespace == 'mmacmix':
        return sum(OPERATORS[name](arguments, results), start=Traffic(0, 0, 0))
    if name in _RULES:
        return _RULES[name](arguments, results)
    mutated = {each.name for each in func._schema.arguments if each.alias_info and each.alias_info.is_write}
    only_written = {each.name for each in func._schema.arguments if each.is_out} if mutated else set()
    read = size([each for key, each in arguments.items() if key not in only_written])
    outputs = {id(each): each for each in tensors([results, [arguments.get(key) for key in mutated]])}
    return Traffic(1, read, size(list(outputs.values())))


def _fill(arguments: dict[str, Any], results: Any) -> Traffic:
    return Traffic(1, 0, size(results))


def _copy(arguments: dict[str, Any], results: Any) -> Traffic:
    return Traffic(1, size(arguments['src']), size(results))


def _gather(arguments: dict[str, Any], results: Any) -> Traffic:
    """Reads the chosen elements only."""
    indices = arguments['index'] if 'index' in arguments else arguments['indices']
    return Traffic(1, size(results) + size(indices), size(results))


def _scatter(arguments: dict[str, Any], results: Any) -> Traffic:
    """Writes the chosen elements only."""
    source = arguments['source']
    return Traffic(1, size(source) + size(arguments['index']), size(source))


def _scatter_add(arguments: dict[str, Any], results: Any) -> Traffic:
    source = arguments['source']
    return Traffic(1, 2 * size(source) + size(arguments['index']), size(source))


def _index_put(arguments: dict[str, Any], results: Any) -> Traffic:
    values, times = arguments['values'], 2 if arguments.get('accumulate') else 1
    return Traffic(1, times * size(values) + size(arguments['indices']), size(values))


def _embed_in_zeros(arguments: dict[str, Any], results: Any) -> Traffic:
    """Fills the result, then copies the argument into a part of it."""
    part = size(arguments['grad_output'] if 'grad_output' in arguments else arguments['self'])
    return Traffic(2, part, size(results) + part)


def _convolution(arguments: dict[str, Any], results: Any) -> Traffic:
    """The bias is added to the output by a second kernel."""
    traffic = Traffic(1, size([arguments['input'], arguments['weight']]), size(results))
    bias = arguments['bias']
    return traffic if bias is None else traffic + Traffic(1, size(results) + size(bias), size(results))


def _convolution_backward(arguments: dict[str, Any], results: Any) -> Traffic:
    """A kernel per gradient."""
    grad, x, weight = (arguments[name] for name in ('grad_output', 'input', 'weight'))
    reads = [grad, weight], [grad, x], [grad]
    kernels = zip(arguments['output_mask'], reads, results, strict=True)
    return sum((Traffic(1, size(read), size(result)) for wanted, read, result in kernels if wanted), Traffic(0, 0, 0))


def _baddbmm(arguments: dict[str, Any], results: Any) -> Traffic:
    """The addend is copied into the result, to which the product is added."""
    factors = size([arguments['batch1'], arguments['batch2']])
    return Traffic(2, size(arguments['self']) + factors + size(results), 2 * size(results))


def _attention(arguments: dict[str, Any], results: Any) -> Traffic:
    return Traffic(1, size(arguments), size(results[:2]))  # the output and its log-sum-exp


def _attention_backward(arguments: dict[str, Any], results: Any) -> Traffic:
    """Delta, the sum of output times gradient over the channels, then all gradients."""
    lse = arguments['logsumexp']
    output = [arguments['grad_out_'], arguments['out']]
    maps = [arguments[name] for name in ('grad_out_', 'query', 'key', 'value', 'attn_bias')]
    return Traffic(1, size(output), size(lse)) + Traffic(1, size(maps) + 2 * size(lse), size(results))


_FILLS = ('arange', 'fill_', 'full', 'full_like', 'new_full', 'new_ones', 'new_zeros', 'ones', 'ones_like')
_FILLS += ('scalar_tensor', 'zero_', 'zeros', 'zeros_like')
_RULES: dict[str, Callable[[dict[str, Any], Any], Traffic]] = {
    **dict.fromkeys(_FILLS, _fill),
    **dict.fromkeys(('embedding', 'gather', 'index', 'index_select'), _gather),
    **dict.fromkeys(('constant_pad_nd', 'select_backward', 'slice_backward'), _embed_in_zeros),
    '_scaled_dot_product_efficient_attention': _attention,
    '_scaled_dot_product_efficient_attention_backward': _attention_backward,
    'baddbmm': _baddbmm,
    'convolution': _convolution,
    'convolution_backward': _convolution_backward,
    'copy_': _copy,
    'index_add_': _scatter_add,
    'index_copy_': _scatter,
    'index_put_': _index_put,
}


# -- the package's own operators -------------------------------------------------------------------


def one_kernel(arguments: dict[str, Any], results: Any) -> list[Traffic]:
    """A kernel that reads each input once and writes each output once."""
    return [Traffic(1, size(arguments), size(results))]


def _neighborhood_attention_backward(arguments: dict[str, Any], results: Any) -> list[Traffic]:
    """A kernel for query, and one for key and value; then sums of the partial gradients of the layer's terms."""
    maps = size([arguments['maps'], arguments['grad']])
    query_bias, _, rate = terms = [arguments.get(name) for name in ('query_bias', 'position', 'rate')]
    planes = size(arguments['lse']) * (1 if rate is None else 3)
    of_queries = of_keys = 0
    sums = []
    if rate is not None:
        from ..ops.backends.triton_kernels import partial_sums

        window = (arguments[name] for name in ('kernel_size', 'stride', 'dilation'))
        key = arguments['maps'][-1][:, -1]
        of_queries, of_keys = (4 * math.prod(shape) for shape in partial_sums(arguments['output'], key, *window))
        partial = of_queries // 3, of_queries // 3 * 2, of_keys
        sums = [Traffic(1, read, 4 * term.numel()) for read, term in zip(partial, terms, strict=True)]
        sums += [Traffic(1, 4 * term.numel(), size(term)) for term in terms if term.dtype != torch.float32]
    lse = size(arguments['lse'])
    read = maps + size(arguments['output']) + lse + size(terms)
    grads, grad_query = size(results[: len(arguments['maps'])]), size(arguments['output'])
    return [
        Traffic(1, read, grad_query + planes + of_queries),
        Traffic(1, maps + lse + planes + size([query_bias, rate]), grads - grad_query + of_keys),
        *sums,
    ]


#: The launches of each operator in the namespace ``mmacmix``, one entry per kernel. The dispatcher cannot see them.
OPERATORS: dict[str, Callable[[dict[str, Any], Any], list[Traffic]]] = {
    'neighborhood_attention': one_kernel,
    'neighborhood_attention_backward': _neighborhood_attention_backward,
    'sum_paths': one_kernel,
}
