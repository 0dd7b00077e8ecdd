"""Compile the Triton kernels for compute capability 8.6, as their launches would; no GPU is needed.

Usage: python -m tests.ops.backends.compile_triton_kernels DTYPE HEAD_DIM KERNEL_SIZE STRIDE DILATION, without
TRITON_INTERPRET. Prints as JSON the shared memory of each kernel in bytes and the number of its atomic instructions.
"""

import json
import re
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmacmix.ops.backends import triton_kernels
from tests.ops.maps import output_and_gradients, random_maps

TYPES = {torch.float32: '*fp32', torch.float16: '*fp16', torch.bfloat16: '*bf16', int: 'i32', float: 'fp32'}


class Compiler:
    """Stands in for a kernel and compiles it when it is launched."""

    kernels: dict[str, dict[str, int]] = {}

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        assert all(0 < side < limit for side, limit in zip(grid, (2**31, 2**16, 2**16), strict=True))
        return self.compile

    def compile(self, *arguments, **options):
        signature, constants = {}, {}
        for name, value in zip(self.kernel.arg_names, arguments, strict=True):
            if name.isupper():
                signature[name], constants[name] = 'constexpr', value
            else:
                signature[name] = TYPES[value.dtype if isinstance(value, torch.Tensor) else type(value)]
        source = ASTSource(self.kernel, signature, constants)
        compiled = triton.compile(source, target=GPUTarget('cuda', 86, 32), options=options)
        atomics = len(re.findall(r'^\s*(?:@\S+ )?(?:atom|red)\.', compiled.asm['ptx'], re.MULTILINE))
        self.kernels[self.kernel.__name__] = dict(shared=compiled.metadata.shared, atomics=atomics)


def main(dtype, head_dim, *window):
    for name in ('_forward_kernel', '_grad_query_kernel', '_grad_key_value_kernel'):
        setattr(triton_kernels, name, Compiler(getattr(triton_kernels, name)))
    maps = random_maps((1, 2, head_dim, 20, 20), window[1], getattr(torch, dtype))
    output_and_gradients(triton_kernels.neighborhood_attention, maps, *window)
    print(json.dumps(Compiler.kernels))


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:]))
