"""Compile the Triton kernels as launches on a GPU would; none is needed.

Usage, without TRITON_INTERPRET:

    python -m tests.ops.backends.compile_triton_kernels resources ARCHITECTURES CONFIGURATION...
    python -m tests.ops.backends.compile_triton_kernels variants

``resources`` prints as JSON a list with the stack and the shared memory of each kernel in bytes, the package's bound of
the latter, and the number of atomic instructions. What the package does not support is omitted. ``ARCHITECTURES`` are
separated by commas, for example ``80,90``; a configuration is ``DTYPE:HEAD_DIM:KERNEL_SIZE:STRIDE:DILATION``,
optionally followed by ``:terms``. The dtype ``tf32`` is float32 with products in TF32. An architecture that Triton's
assembler does not know is an error.

``variants`` prints how many kernels a multi-scale training of ResNet-50 would compile.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from mmacmix.ops import ceil_div
from mmacmix.ops.backends import triton_kernels
from mmacmix.ops.borders import residues_and_step

KERNELS = '_forward_kernel', '_grad_query_kernel', '_grad_key_value_kernel'
CUOBJDUMP = os.path.join(triton.__path__[0], 'backends', 'nvidia', 'bin', 'cuobjdump')


class PretendedGPU:
    """Stands in for Triton's driver of a GPU: kernels are specialised and compiled, and never launched."""

    def __init__(self, architecture):
        self.architecture, self.utils = architecture, self

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget('cuda', self.architecture, 32)

    def get_active_torch_device(self):
        return torch.device('cpu')

    def get_device_properties(self, device):
        return dict(max_shared_mem=2**30)  # so that kernels that need too much are reported instead of refused


class Compiler:
    """Stands in for a kernel and compiles it when it is launched."""

    def __init__(self, kernel, compiled):
        self.kernel, self.compiled = kernel, compiled

    def __getitem__(self, grid):
        assert len(grid) == 1 and 0 < grid[0] < 2**31

        def launch(*arguments, **options):
            self.compiled.append((self.kernel.__name__, self.kernel.warmup(*arguments, grid=grid, **options)))

        return launch


def pretend(architecture):
    """Compile for an architecture from now on; returns the list to which launches add what they compile."""
    driver.set_active(PretendedGPU(architecture))
    compiled = []
    for name in KERNELS:
        kernel = getattr(triton_kernels, name)
        setattr(triton_kernels, name, Compiler(kernel.kernel if isinstance(kernel, Compiler) else kernel, compiled))
    return compiled


def run(channels, heads, height, width, window, dtype, terms, batch=2):
    """Launch all kernels on maps without memory: slices of one channels_last projection."""
    stride = window[1]
    joint = torch.empty((batch, 3 * channels, height, width), dtype=dtype, device='meta')
    joint = joint.to(memory_format=torch.channels_last)
    query, key, value = (each.unflatten(1, (heads, -1)) for each in joint.chunk(3, 1))
    if stride > 1:
        few = batch, channels, ceil_div(height, stride), ceil_div(width, stride)
        query = torch.empty(few, dtype=dtype, device='meta').to(memory_format=torch.channels_last)
        query = query.unflatten(1, (heads, -1))
    head_dim = channels // heads
    shapes = [(heads, head_dim), (head_dim, 2), (1,)]
    terms = [torch.empty(shape, device='meta') if terms else None for shape in shapes]
    # The registered functions themselves: for tensors on this device, operators would only compute shapes.
    maps = [each[:, None] for each in (query, key, value)]
    output, lse = triton_kernels._attend._init_fn(maps, *window, *terms)
    triton_kernels._attend_backward._init_fn(torch.empty_like(output), maps, output, lse, *window, *terms)


def stack_size(cubin):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'kernel.cubin')
        with open(path, 'wb') as file:
            file.write(cubin)
        usage = subprocess.run([CUOBJDUMP, '--dump-resource-usage', path], capture_output=True, text=True, check=True)
    return int(re.search(r'STACK:(\d+)', usage.stdout)[1])


def resources(architectures, *configurations):
    results = []
    for architecture in map(int, architectures.split(',')):
        compiled = pretend(architecture)
        for configuration in configurations:
            compiled.clear()
            name, head_dim, *window = configuration.removesuffix(':terms').split(':')
            torch.backends.cuda.matmul.allow_tf32 = name == 'tf32'
            dtype = torch.float32 if name == 'tf32' else getattr(torch, name)
            terms = configuration.endswith(':terms')
            window = tuple(map(int, window))
            if not triton_kernels.supports(int(head_dim), dtype, *window):
                continue
            run(4 * int(head_dim), 4, 25, 42, window, dtype, terms)
            step = residues_and_step(*window[1:])[1]
            for kernel, binary in compiled:
                atomics = len(re.findall(r'^\s*(?:@\S+ )?(?:atom|red)\.', binary.asm['ptx'], re.MULTILINE))
                of_keys = kernel == '_grad_key_value_kernel'
                tiling = triton_kernels._tiling(int(head_dim), dtype, window[0], step, of_keys)
                results.append(
                    dict(architecture=architecture, configuration=configuration, kernel=kernel, atomics=atomics)
                    | dict(stack=stack_size(binary.asm['cubin']), shared=binary.metadata.shared)
                    | dict(bound=tiling.shared_memory(int(head_dim), dtype))
                )
    return results


def variants():
    pretend(90)
    keys = set()

    def remember(*, key, fn, **_):
        keys.add((fn.name, key))
        return True  # do not compile

    triton.knobs.runtime.jit_cache_hook = remember
    randomness = random.Random(0)
    for _ in range(100):
        # Mask R-CNN's multi-scale training: the shorter side, the longer one, then padding to a multiple of 32.
        short, ratio = randomness.choice(range(480, 801, 32)), randomness.uniform(1, 1.8)
        sides = [ceil_div(side, 32) * 8 for side in (short, min(round(short * ratio), 1333))]
        randomness.shuffle(sides)
        for stage, channels in enumerate((64, 128, 256, 512)):
            if stage:
                run(channels, 4, *sides, (7, 2, 1), torch.float16, terms=True)
                sides = [ceil_div(side, 2) for side in sides]
            run(channels, 4, *sides, (7, 1, 1), torch.float16, terms=True)
    return len(keys)


if __name__ == '__main__':
    command = dict(resources=resources, variants=variants)[sys.argv[1]]
    print(json.dumps(command(*sys.argv[2:])))
