"""Compile the Triton kernels for a GPU that need not be there, as the launches in triton_kernels would.

Prints as JSON the shared memory of each kernel, in bytes, and the number of its atomic instructions. Run without
TRITON_INTERPRET.
"""

import json
import math
import re
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmacmix.ops.backends import triton_kernels

TYPES = {torch.float32: '*fp32', torch.float16: '*fp16', torch.bfloat16: '*bf16', int: 'i32', float: 'fp32'}


class Compiler:
    """Stands in for a kernel: to be launched is to be compiled."""

    kernels: dict[str, dict[str, int]] = {}

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        assert all(0 < side < limit for side, limit in zip(grid, (2**31, 2**16, 2**16), strict=True))
        return self.compile

    def compile(self, *arguments, **options):
        signature, constants = {}, {}
        for name, value in zip(self.kernel.arg_names, arguments, strict=True):
            if name.isupper() or name.startswith('LN2'):
                signature[name], constants[name] = 'constexpr', value
            else:
                signature[name] = TYPES[value.dtype if isinstance(value, torch.Tensor) else type(value)]
        source = ASTSource(self.kernel, signature, constants)
        compiled = triton.compile(source, target=GPUTarget('cuda', 86, 32), options=options)
        atomics = len(re.findall(r'^\s*(?:@\S+ )?(?:atom|red)\.', compiled.asm['ptx'], re.MULTILINE))
        self.kernels[self.kernel.__name__] = dict(shared=compiled.metadata.shared, atomics=atomics)


def main(dtype, head_dim, kernel_size, stride, dilation):
    for name in ('_forward_kernel', '_grad_query_kernel', '_grad_key_value_kernel'):
        setattr(triton_kernels, name, Compiler(getattr(triton_kernels, name)))
    size = (1, 2, head_dim, 20, 20)
    few = (*size[:3], *(math.ceil(20 / stride),) * 2)
    query, key, value = (torch.zeros(each, dtype=getattr(torch, dtype)) for each in (few, size, size))
    inputs = [each.requires_grad_() for each in (query, key, value)]
    out = triton_kernels.neighborhood_attention(*inputs, kernel_size, stride, dilation)
    out.backward(torch.zeros_like(out))
    print(json.dumps(Compiler.kernels))


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:]))
