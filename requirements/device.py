"""Print the torch of this environment, its device and the origin of mmcv's operators; exit with 1 without a usable GPU.

The set-up and `make train` run this with the environment's Python.
"""

import glob
import os
import re
import shutil
import sys
import warnings
from importlib.machinery import PathFinder
from importlib.util import find_spec

import torch


def main() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        has_gpu = torch.cuda.is_available()
        device, problem = try_gpu() if has_gpu else ('CPU', None)
    print(f'torch {torch.__version__} on {device}; operators of mmcv: {operators()}')
    if not has_gpu and has_nvidia_gpu():
        problem = explanation([str(each.message) for each in caught])
    if problem:
        print(f'{problem} Cures: docs/install.md', file=sys.stderr)
    sys.exit(not has_gpu or bool(problem))


def try_gpu() -> tuple[str, str | None]:
    """The name of the GPU, and a sentence if it does not compute."""
    name = 'a GPU that does not compute'
    try:
        name = torch.cuda.get_device_name()
        torch.ones(1, device='cuda').add(1).item()
    except RuntimeError as error:
        return name, f'torch {torch.__version__} cannot compute on this GPU ({str(error).splitlines()[0]}).'
    return name, None


def has_nvidia_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU or its driver."""
    return bool(
        glob.glob('/dev/nvidia[0-9]*') or os.path.exists('/proc/driver/nvidia/version') or shutil.which('nvidia-smi')
    )


def explanation(messages: list[str]) -> str:
    """A sentence on why torch does not see the GPU of this machine, given torch's warnings."""
    if torch.version.cuda is None:
        return (
            f'This machine has an NVIDIA GPU, but torch {torch.__version__} is a build without CUDA: it runs on CPUs.'
        )
    reason = next((text for text in messages if text.startswith('CUDA initialization:')), '')
    # "The NVIDIA driver on your system is too old (found version 12040). Please update ...", or
    # "Unexpected error from cudaGetDeviceCount(). Did you run ... Error 802: system not yet initialized (Triggered ..."
    reason = reason.removeprefix('CUDA initialization:').split(' (Triggered')[0].strip()
    number = re.search(r'Error \d+: .*', reason)
    reason = number.group() if number else reason.split('. ')[0]
    if not reason and (hidden := os.environ.get('CUDA_VISIBLE_DEVICES')) is not None:
        reason = f'CUDA_VISIBLE_DEVICES is {hidden!r}'
    return (
        f'This machine has an NVIDIA GPU or driver, but torch {torch.__version__} (CUDA {torch.version.cuda}) finds no '
        f'GPU to use ({reason or "no device is visible"}): it runs on the CPU.'
    )


def operators() -> str:
    """Where the operators of mmcv come from."""
    package = find_spec('mmcv')
    found = package and PathFinder.find_spec('_ext', list(package.submodule_search_locations))
    if not found:
        return 'none'
    if found.origin.endswith('.py'):
        return 'torchvision and PyTorch'
    return f'compiled ({found.origin})'


if __name__ == '__main__':
    main()
