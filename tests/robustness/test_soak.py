"""Memory does not grow over 2000 training steps or 2000 inferences after a warm-up, with images of random sizes.

Each runs in a process of its own, without the caches that grow although nothing leaks: torch keeps kernels for the last
thousand sizes, which a warm-up of 400 steps does not fill, and malloc keeps freed maps between small objects in use.
"""

import ctypes
import gc
import random
import sys

import psutil
import pytest
import torch

from mmacmix.backbones import ACmixResNet, ACmixSwinTransformer
from tests.tooling import ROOT, start

STEPS, WARM_UP = 2400, 400  # each network does half of them


def networks():
    """One network with neighbourhood attention and one with window attention."""
    first = dict(num_stages=1, strides=(1,), dilations=(1,), stage_with_acmix=(True,), out_indices=(0,))
    return torch.nn.ModuleList(
        [
            ACmixResNet(26, base_channels=8, norm_eval=False, **first),
            ACmixSwinTransformer(dict(embed_dims=8, depths=(1, 1), num_heads=(2, 4)), out_indices=(1,)),
        ]
    )


ENVIRONMENT = dict(
    LRU_CACHE_CAPACITY='1',  # torch's cache of kernels
    ONEDNN_PRIMITIVE_CACHE_CAPACITY='0',
    MALLOC_ARENA_MAX='1',
    MALLOC_MMAP_THRESHOLD_='65536',  # maps are allocated one by one and returned to the system at once
    MALLOC_TRIM_THRESHOLD_='0',
    PYTHONPATH=str(ROOT),
)


def soak(train):
    """Resident memory in bytes after the warm-up and after all steps."""
    torch.manual_seed(0)
    sizes = random.Random(0)
    both = networks().train(train)
    optimizer = torch.optim.SGD(both.parameters(), 1e-3)
    memory = {}
    for step in range(1, STEPS + 1):
        images = torch.rand(2 if train else 1, 3, sizes.randint(17, 96), sizes.randint(17, 96))
        with torch.set_grad_enabled(train):
            (output,) = both[step % 2](images)
        if train:
            optimizer.zero_grad()
            output.square().mean().backward()
            optimizer.step()
        if step in (WARM_UP, STEPS):
            del output
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            memory[step] = psutil.Process().memory_info().rss
    return memory[WARM_UP], memory[STEPS]


def growth(train):
    done = start('-m', 'tests.robustness.test_soak', int(train), cwd=ROOT, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = map(int, done.stdout.split()[-2:])
    print(f'{before / 2**20:.1f} MiB after {WARM_UP} steps, {after / 2**20:.1f} MiB after {STEPS}')
    return after / before - 1


@pytest.mark.slow
@pytest.mark.parametrize('train', [True, False], ids=['training', 'inference'])
def test_memory_does_not_grow(train):
    # Torch is most of the process: 2% would be 9 MB, more than such small networks leak.
    assert growth(train) < 0.003


if __name__ == '__main__':
    print(*soak(sys.argv[1] == '1'))
