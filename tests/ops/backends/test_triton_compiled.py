"""The Triton kernels as GPUs of each architecture get them: registers, shared memory, variants; no GPU is needed."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import needs_torch
from tests.tooling import ROOT

pytestmark = needs_torch('2.4', 'the Triton backend')

#: Where registers and shared memory are scarcest.
DEMANDING = [
    'float32:128:7:1:1:terms',
    'float32:64:7:2:1:terms',
    'tf32:128:7:2:1:terms',
    'tf32:64:7:1:1:terms',
    'bfloat16:20:3:2:3:terms',
]
#: The package's networks.
NETWORKS = [
    f'{dtype}:{head_dim}:7:{stride}:1{terms}'
    for dtype in ('float32', 'tf32', 'float16', 'bfloat16')
    for head_dim in (16, 32, 64, 128)
    for stride in (1, 2)
    for terms in ('', ':terms')
]

WITH_TERMS = [each for each in NETWORKS if each.endswith(':terms')]


def run_compiler(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    command = [sys.executable, '-m', 'tests.ops.backends.compile_triton_kernels', *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    'architecture, configurations',
    [
        pytest.param('90', DEMANDING, id='sm_90'),
        pytest.param('90', NETWORKS, marks=pytest.mark.slow, id='sm_90, networks'),
        *(
            pytest.param(architecture, WITH_TERMS, marks=pytest.mark.slow, id=f'sm_{architecture}, networks')
            for architecture in ('80', '86', '89', '100', '120')
        ),
    ],
)
def test_networks_compile_without_spills_or_atomics(architecture, configurations):
    kernels = run_compiler('resources', architecture, *configurations)
    assert len(kernels) == 3 * len(configurations)
    for kernel in kernels:
        assert kernel['stack'] <= 64, kernel
        assert kernel['shared'] <= min(kernel['bound'], 99 * 1024), kernel
        assert kernel['atomics'] == 0, kernel  # atomic additions would make gradients differ from run to run


@pytest.mark.slow
def test_supported_sizes_fit_in_shared_memory():
    configurations = [
        f'{dtype}:{head_dim}:{window}{terms}'
        for dtype in ('float32', 'tf32', 'bfloat16')
        for head_dim in (8, 256)
        for window in ('3:1:1', '9:2:3', '15:1:1')
        for terms in ('', ':terms')
    ]
    kernels = run_compiler('resources', '86', *configurations)
    assert len(kernels) >= 3 * len(configurations) / 2
    for kernel in kernels:
        assert kernel['shared'] <= min(kernel['bound'], 99 * 1024), kernel


def test_multi_scale_training_compiles_few_kernels():
    assert run_compiler('variants') <= 24
