"""Compiles mmcv and its operators, for CPUs or for the CUDA of the installed torch."""

import glob
import os
import re
import shlex
import shutil
import tempfile

from environment import SetupError, output_or_none, release

FIRST_TORCH_WITH_CXX20 = (2, 14)  # whose headers refuse the C++17 that the mmcv of both lanes asks for
FIRST_CUDA_ON_PYPI = (13, 0)
GB_PER_JOB = {'c++': 2.5, 'nvcc': 4}
PLAIN = '-g0 -O2'


def check(mmcv, torch, python, way_out=''):
    """Check what can be checked before torch is downloaded.

    Args:
        mmcv: Requirement to build, such as mmcv==2.1.0.
        torch: Version of torch, empty if unknown.
        python: Base interpreter.
        way_out: What else the user can do, as the end of a sentence.

    Raises:
        SetupError: The operators cannot be built.
    """
    if torch and release(torch) >= FIRST_TORCH_WITH_CXX20:
        raise SetupError(
            '{} is written in C++17 and cannot be compiled with torch {}: name a Python that has torch 2.13 or older '
            'with PYTHON=/path/to/python3{}.'.format(mmcv, torch, way_out)
        )
    too_new = output_or_none([python, '-c', 'import sys; print(sys.version_info >= (3, 13))']) == 'True'
    if too_new and mmcv == 'mmcv==2.1.0':
        raise SetupError(
            '{} cannot be compiled on Python 3.13: name a Python 3.10 to 3.12 with PYTHON=/path/to/python3{}.'.format(
                mmcv, way_out
            )
        )
    compiler = os.environ.get('CXX', 'c++')
    if not shutil.which(shlex.split(compiler)[0]):
        raise SetupError(
            "mmcv's operators need a C++ compiler and '{}' is not on the PATH: install one "
            '(Debian and Ubuntu: apt install g++) or name it with CXX{}.'.format(compiler, way_out)
        )
    headers = 'import os, sysconfig; print(os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'
    if output_or_none([python, '-c', headers]) != 'True':
        raise SetupError(
            "{} has no C headers (Python.h), which mmcv's operators need: install them "
            '(Debian and Ubuntu: apt install python3-dev){}.'.format(python, way_out)
        )


def build(environment, mmcv, way_out=''):
    """Compile and install mmcv; its requirements are left to the step that installs the host libraries.

    Raises:
        SetupError: A compiler is missing, or the build failed.
    """
    # pip's cache, which does not know the torch that a wheel was built with, is not used.
    command = environment.pip_install('--no-build-isolation', '--no-cache-dir', '--no-deps', '--ignore-installed', mmcv)
    with tempfile.TemporaryDirectory() as folder:
        cuda = environment.ask('import torch; print(torch.version.cuda or "")')
        variables = dict(MMCV_WITH_OPS='1', FORCE_MMCV='1')
        variables['MAX_JOBS'] = os.environ.get('MAX_JOBS') or str(jobs('nvcc' if cuda else 'c++'))
        if cuda:
            variables.update(cuda_variables(environment, cuda, folder, way_out))
        flags = [PLAIN] if cuda else [precompile_torch_headers(environment, folder), PLAIN]
        for flag in sorted(set(flags), key=flags.index):
            if not environment.call(command, CFLAGS=flag, CXXFLAGS=flag, **variables):
                return
        raise environment.failure('Building ' + mmcv)


def jobs(compiler):
    """How many compilers to run at once: one per core, as far as the memory allows."""
    return max(1, min(len(os.sched_getaffinity(0)), int(memory() / (GB_PER_JOB[compiler] * 1e9))))


def memory():
    """Available memory in bytes, within the limit of a container."""
    with open('/proc/meminfo') as file:
        found = [1024 * int(re.search(r'MemAvailable: *(\d+)', file.read()).group(1))]
    for name in ('memory.max', 'memory/memory.limit_in_bytes'):
        path = os.path.join('/sys/fs/cgroup', name)
        if os.path.exists(path):
            with open(path) as file:
                text = file.read().strip()
            found += [int(text)] if text.isdigit() else []
    return min(found)


def cuda_variables(environment, cuda, folder, way_out=''):
    """Environment variables for a build with CUDA, whose compiler comes from PyPI if the machine has none that fits.

    Args:
        environment: Where mmcv is built.
        cuda: CUDA version of torch, such as 13.0.
        folder: Temporary folder for a link to libcudart.
        way_out: What else the user can do, as the end of a sentence.

    Raises:
        SetupError: The compiler is neither on the machine nor on PyPI.
    """
    variables = dict(FORCE_CUDA='1', CUDA_HOME=cuda_toolkit(environment, cuda, way_out))
    if environment.ask('import torch; print(torch.cuda.device_count())') in ('0', None):
        variables['TORCH_CUDA_ARCH_LIST'] = os.environ.get('TORCH_CUDA_ARCH_LIST') or '7.5+PTX'  # runs on newer GPUs
    # Headers and libraries that a toolkit may lack come with torch.
    packages = nvidia_packages(environment)
    headers = [path for package in packages for path in glob.glob(os.path.join(package, 'include'))]
    variables['CPATH'] = os.pathsep.join(filter(None, [os.environ.get('CPATH'), *headers]))
    for library in [path for package in packages for path in glob.glob(os.path.join(package, 'lib', 'libcudart.so.*'))]:
        os.symlink(library, os.path.join(folder, 'libcudart.so'))
        variables['LIBRARY_PATH'] = os.pathsep.join(filter(None, [os.environ.get('LIBRARY_PATH'), folder]))
        break
    return variables


def cuda_toolkit(environment, cuda, way_out=''):
    """The folder of a CUDA toolkit with the compiler of one version, installed from PyPI if there is none."""
    on_path = os.path.dirname(os.path.dirname(os.path.realpath(shutil.which('nvcc') or '')))
    for home in filter(None, (os.environ.get('CUDA_HOME'), '/usr/local/cuda-' + cuda, '/usr/local/cuda', on_path)):
        if nvcc_version(home) == cuda:
            return home
    if release(cuda) < FIRST_CUDA_ON_PYPI:
        raise SetupError(
            'torch is built with CUDA {0}, and no nvcc of that version was found: install the CUDA toolkit {0} and '
            'name its folder with CUDA_HOME{1}.'.format(cuda, way_out)
        )
    environment.pip('cuda-toolkit[nvcc,cccl]=={}.*'.format(cuda))
    for home in nvidia_packages(environment):
        if nvcc_version(home) == cuda:
            return home
    raise SetupError(
        'The CUDA compiler from the package index does not run: install the CUDA toolkit {} and name its folder with '
        'CUDA_HOME.'.format(cuda)
    )


def nvidia_packages(environment):
    """The folders of NVIDIA's packages, some of which may be in the environment of the base interpreter."""
    roots = (environment.ask('import nvidia; print(*nvidia.__path__, sep="\\n")') or '').splitlines()
    return [path for root in roots for path in sorted(glob.glob(os.path.join(root, '*')))]


def nvcc_version(home):
    """The version of CUDA whose compiler is in a folder, such as 13.0; None without one."""
    found = re.search(r'release (\d+\.\d+)', output_or_none([os.path.join(home, 'bin', 'nvcc'), '--version']) or '')
    return found and found.group(1)


def precompile_torch_headers(environment, folder):
    """Compiler flags for mmcv's build, whose 77 files then share torch's precompiled headers.

    Compilers other than g++ get plain flags. g++ ignores precompiled headers that do not match its options.
    """
    header = os.path.join(folder, 'torch_types.h')
    with open(header, 'w') as source:
        source.write('#include <torch/types.h>\n')
    compile_header = (
        'import os, subprocess, sys\n'
        'from setuptools._distutils.ccompiler import new_compiler\n'
        'from setuptools._distutils.sysconfig import customize_compiler\n'
        'from torch.utils.cpp_extension import include_paths\n'
        'compiler = new_compiler(); customize_compiler(compiler)\n'
        'cxx = os.environ.get("CXX", "c++").split()\n'
        'assert b"Free Software Foundation" in subprocess.check_output(cxx + ["--version"])\n'
        'flags = compiler.compiler_so[1:] + ["-std=c++17", "-DTORCH_API_INCLUDE_EXTENSION_H", '
        '"-DTORCH_EXTENSION_NAME=_ext"] + ["-I" + path for path in include_paths()]\n'
        'sys.exit(subprocess.call(cxx + ["-x", "c++-header"] + flags + [sys.argv[1]]))\n'
    )
    if environment.call([environment.python, '-c', compile_header, header], CFLAGS=PLAIN):
        return PLAIN
    return '{} -include {}'.format(PLAIN, header)
