#!/usr/bin/env python3
"""Set up a virtual environment with mmacmix and one lane of OpenMMLab packages.

    python3 requirements/install.py [--lane openmmlab|onedl] [--python INTERPRETER]

The environment is `.venv` (lane onedl: `.venv-onedl`) in the root of the checkout, with the versions
of the lane's lock. A second run does nothing. The script needs only the standard library, and parses
on old interpreters, so that they can report what is wrong.

A torch that the chosen interpreter already has, such as a GPU build, is used as it is: the new
environment can import the packages of the interpreter's environment, after its own, and does not
change them.
"""

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REQUIREMENTS = os.path.join(ROOT, 'requirements')
PYTHON_VERSIONS = ('3.12', '3.11', '3.10')
LANES = ('openmmlab', 'onedl')
OLDEST_TORCH = (2, 6)
STEPS = 5
# Installed with exact versions, not constrained by the lock: an existing torch stays and brings its own triton, and
# torch may require a setuptools with which mmcv cannot be built.
UNCONSTRAINED = ('setuptools', 'torch', 'triton')
BASE_FILE = '.base'  # in an environment; contains the path of its base interpreter
NETWORK_ERRORS = (
    'NewConnectionError',
    'ConnectTimeoutError',
    'ReadTimeoutError',
    'NameResolutionError',
    'ProxyError',
    'Temporary failure in name resolution',
    'Network is unreachable',
)


class SetupError(Exception):
    """The message is one sentence: what is missing, and what to do."""


def main():
    parser = argparse.ArgumentParser(description='Set up an environment for mmacmix.')
    parser.add_argument('--lane', default='openmmlab', help='openmmlab (stock packages) or onedl (maintained forks)')
    parser.add_argument(
        '--python', default='', help='base interpreter; default: the running one if its version is supported'
    )
    args = parser.parse_args()
    try:
        if args.lane not in LANES:
            raise SetupError("unknown lane '{}': use LANE=openmmlab or LANE=onedl.".format(args.lane))
        python = find_python(args.python)
        Installer(args.lane, python, named=bool(args.python)).run()
    except SetupError as error:
        sys.exit('set-up: {}'.format(error))
    except KeyboardInterrupt:
        sys.exit('set-up: interrupted; run the same command again to continue.')


def find_python(wanted):
    """Path of a Python 3.10-3.12: `wanted` if given, else the running one, else one on the PATH."""
    candidates = [wanted] if wanted else [sys.executable] + ['python' + version for version in PYTHON_VERSIONS]
    found = []
    for name in candidates:
        path, version = shutil.which(os.path.expanduser(name)), None
        if path:
            version = output_or_none([path, '-c', 'import sys; print("%d.%d" % sys.version_info[:2])'])
        if version in PYTHON_VERSIONS:
            return base_of_own_environment(path)
        found.append('{} is {}'.format(name, 'Python ' + version if version else 'not usable'))
    raise SetupError(
        'mmacmix needs Python 3.10, 3.11 or 3.12 ({}); name one with PYTHON=/path/to/python3.'.format(', '.join(found))
    )


def base_of_own_environment(python):
    """The base interpreter if `python` is in an environment of this checkout, else `python`.

    An active environment of one lane must not become the base of the other lane's.
    """
    venv = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    base = read(os.path.join(venv, BASE_FILE)) if os.path.dirname(venv) == ROOT else ''
    return base or python


def read(path):
    """The text of a file, empty if it does not exist."""
    if not os.path.exists(path):
        return ''
    with open(path) as file:
        return file.read()


def output_or_none(command):
    """The standard output of a command, or None if it fails."""
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, universal_newlines=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def pins(name):
    """The requirements in a file of this folder: ['package==version', ...]."""
    with open(os.path.join(REQUIREMENTS, name + '.txt')) as lines:
        return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


def name_of(requirement):
    """The package name of a requirement, normalised as in the locks."""
    return re.sub('[-_.]+', '-', re.match(r'[\w.-]+', requirement).group()).lower()


class Installer:
    """Fills one environment in steps that can be repeated."""

    def __init__(self, lane, python, named):
        self.lane, self.base_python, self.named = lane, os.path.abspath(python), named
        self.venv = os.path.join(ROOT, '.venv' if lane == 'openmmlab' else '.venv-' + lane)
        self.python = os.path.join(self.venv, 'bin', 'python')
        self.log = os.path.join(self.venv, 'install.log')
        self.ready = os.path.join(self.venv, '.ready')
        self.base = os.path.join(self.venv, BASE_FILE)
        self.constraints = os.path.join(self.venv, 'constraints.txt')
        if not named:
            self.base_python = read(self.base) or self.base_python
        self.step = 0

    def run(self):
        fingerprint = self.fingerprint()
        if self.is_ready(fingerprint):
            return
        started = time.time()
        self.say(
            'Setting up {} with lane {} (once; about 8 minutes on two cores).'.format(
                os.path.relpath(self.venv), self.lane
            )
        )
        (mmcv,) = [pin for pin in pins(self.lane) if pin.split('==')[0] in ('mmcv', 'onedl-mmcv')]
        others = [pin for pin in pins(self.lane) if pin != mmcv]
        build = pins('build') + [pin for pin in others if pin.split('==')[0] in ('numpy', 'setuptools')]
        self.create_environment()
        self.install_torch()
        # After torch, which may upgrade setuptools to a version with which mmcv cannot be built.
        self.install('build tools and numpy', build)
        self.build_mmcv(mmcv)
        self.install(
            'MMDetection, MMSegmentation, MMPretrain, tools for tests, mmacmix',
            others + pins('build') + pins('dev'),
            self.install_without_libgl,
            self.install_torchvision,
            self.install_triton,
            self.install_mmacmix,
        )
        self.check()
        with open(self.ready, 'w') as stamp:
            stamp.write(fingerprint)
        self.say('Set-up done in {}.'.format(minutes(time.time() - started)))

    def fingerprint(self):
        """A hash of everything that determines the installed versions."""
        digest = hashlib.sha256((ROOT + self.lane).encode())
        for name in ('build', 'torch', 'torchvision', 'triton', 'dev', self.lane, 'lock-' + self.lane):
            digest.update('\n'.join(pins(name)).encode())
        digest.update(read(os.path.join(ROOT, 'setup.py')).encode())
        return digest.hexdigest()

    def is_ready(self, fingerprint):
        if read(self.ready) != fingerprint or (self.named and not self.is_built_on_base()):
            return False
        return output_or_none([self.python, '-c', 'print(1)']) == '1'

    def is_built_on_base(self):
        return read(self.base) == self.base_python

    # -- steps ---------------------------------------------------------------------------------------

    def create_environment(self):
        started = self.begin('virtual environment on {}'.format(self.base_python))
        compiler = os.environ.get('CXX', 'c++')
        if not shutil.which(shlex.split(compiler)[0]):
            raise SetupError(
                "mmcv's operators need a C++ compiler and '{}' is not on the PATH: install one "
                '(Debian and Ubuntu: apt install g++) or name it with CXX.'.format(compiler)
            )
        headers = output_or_none(
            [
                self.base_python,
                '-c',
                'import os, sysconfig; print(os.path.exists(os.path.join('
                'sysconfig.get_paths()["include"], "Python.h")))',
            ]
        )
        if headers != 'True':
            raise SetupError(
                "{} has no C headers (Python.h), which mmcv's operators need: install them "
                '(Debian and Ubuntu: apt install python3-dev).'.format(self.base_python)
            )
        if os.path.exists(self.ready):
            os.remove(self.ready)
        if not self.is_built_on_base() or output_or_none([self.python, '-m', 'pip', '--version']) is None:
            command = [self.base_python, '-m', 'venv', '--clear', self.venv]
            if subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
                raise SetupError(
                    '{} cannot create a virtual environment: install its venv module '
                    '(Debian and Ubuntu: apt install python3-venv).'.format(self.base_python)
                )
        self.link_torch_of_base()
        with open(self.base, 'w') as file:
            file.write(self.base_python)
        self.end(started)

    def link_torch_of_base(self):
        """Make the packages of the base interpreter's environment importable if it has torch."""
        find = 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))'
        folder = output_or_none([self.base_python, '-c', find])
        if folder and not folder.startswith(self.venv + os.sep):
            site = output_or_none([self.python, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])'])
            with open(os.path.join(site, 'base_environment.pth'), 'w') as link:
                link.write(folder + '\n')

    def install_torch(self):
        version = output_or_none([self.python, '-c', 'import torch; print(torch.__version__)'])
        if version and tuple(int(part) for part in version.split('.')[:2]) < OLDEST_TORCH:
            raise SetupError(
                '{} has torch {}, but reading checkpoints safely needs {}.{} or newer: upgrade it, or name another '
                'Python with PYTHON=/path/to/python3.'.format(self.base_python, version, *OLDEST_TORCH)
            )
        self.write_constraints(version)
        if version:
            self.begin('torch {} is installed already and stays'.format(version))
            print()
        else:
            self.install(pins('torch')[0], pins('torch'))

    def write_constraints(self, torch):
        """Write the lane's lock for pip. A torch of another version keeps the packages that it requires."""
        unconstrained = set(UNCONSTRAINED)
        if torch and 'torch==' + torch.split('+')[0] not in pins('torch'):
            show = 'from importlib.metadata import requires; print(*requires("torch"), sep="\\n")'
            required = output_or_none([self.python, '-c', show]) or ''
            unconstrained.update(['torchvision'], [name_of(line) for line in required.splitlines()])
        with open(self.constraints, 'w') as file:
            file.writelines(pin + '\n' for pin in pins('lock-' + self.lane) if name_of(pin) not in unconstrained)

    def build_mmcv(self, mmcv):
        _package, version = mmcv.split('==')
        started = self.begin(
            '{} with its compiled operators (3 to 6 minutes on two cores, more than 20 if the '
            "compiler can't precompile headers)".format(mmcv)
        )
        if output_or_none([self.python, '-c', 'import mmcv, mmcv._ext; print(mmcv.__version__)']) != version:
            with tempfile.TemporaryDirectory() as folder:
                environment = dict(os.environ, MMCV_WITH_OPS='1', FORCE_MMCV='1')
                environment.setdefault('MAX_JOBS', str(os.cpu_count() or 1))
                flags = self.precompile_torch_headers(folder)
                # mmcv's requirements, which its build does not need, are installed with the host libraries.
                command = self.pip_install('--no-build-isolation', mmcv)
                environment.update(CFLAGS=flags, CXXFLAGS=flags)
                if self.call(command, environment) and '-include' in flags:
                    self.say('      the build with precompiled headers failed; building without them')
                    environment.update(CFLAGS='-g0 -O2', CXXFLAGS='-g0 -O2')
                    if self.call(command, environment):
                        raise self.failure('Building ' + mmcv)
        self.end(started)

    def precompile_torch_headers(self, folder):
        """Compiler flags for mmcv's build, whose 77 files then share torch's precompiled headers.

        Compilers other than g++ get plain flags. g++ ignores precompiled headers that do not match its options.
        """
        plain = '-g0 -O2'
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
        environment = dict(os.environ, CFLAGS=plain)
        if self.call([self.python, '-c', compile_header, header], environment):
            return plain
        return '{} -include {}'.format(plain, header)

    def install_without_libgl(self):
        """Replace mmcv's OpenCV by one without a GUI if it cannot be imported: bare servers lack libGL."""
        version = output_or_none(
            [self.python, '-c', 'from importlib.metadata import version; print(version("opencv-python"))']
        )
        if version and output_or_none([self.python, '-c', 'import cv2; print(1)']) is None:
            self.pip(['--no-deps', '--force-reinstall', 'opencv-python-headless==' + version])

    def install_torchvision(self):
        """Install torchvision, which MMPretrain imports, in a separate folder known to the tests of ImageNet configs.

        It has operators only for GPU builds of torch, and other packages fail if they find it without them.
        """
        look = 'import importlib.util as u, torch; print(torch.__version__.split(".")[1], u.find_spec("torchvision"))'
        minor, found = (output_or_none([self.python, '-c', look]) or '0 -').split(' ', 1)
        if found == 'None':
            wanted = 'torchvision==0.{}.*'.format(int(minor) + 15)  # torch 2.6 goes with 0.21
            self.pip(['--no-deps', '--upgrade', '--target', os.path.join(self.venv, 'torchvision'), wanted])

    def install_triton(self):
        """GPU builds of torch bring Triton; with others, its interpreter runs the kernels on the CPU in tests."""
        if output_or_none([self.python, '-c', 'import triton; print(1)']) != '1':
            self.pip(['--no-deps', *pins('triton')])

    def install_mmacmix(self):
        self.pip(['--no-deps', '--no-build-isolation', '--editable', ROOT])

    def check(self):
        command = [self.python, '-c', 'import mmcv.ops, mmdet, mmacmix']
        if self.call(command):
            raise self.failure('Importing the installed packages')

    # -- plumbing ------------------------------------------------------------------------------------

    def install(self, what, requirements, *then):
        started = self.begin(what)
        self.pip(requirements)
        for action in then:
            action()
        self.end(started)

    def pip(self, arguments):
        if self.call(self.pip_install('--retries', '2', *arguments)):
            raise self.failure('pip')

    def pip_install(self, *arguments):
        return [self.python, '-m', 'pip', 'install', '--constraint', self.constraints, *arguments]

    def call(self, command, environment=None):
        """Run a command with its output in the log, and return its exit status."""
        with open(self.log, 'a') as log:
            log.write('\n$ {}\n'.format(' '.join(shlex.quote(word) for word in command)))
            log.flush()
            return subprocess.call(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL
            )

    def failure(self, what):
        with open(self.log) as log:
            last = log.read().rsplit('\n$ ', 1)[-1]
        if any(word in last for word in NETWORK_ERRORS):
            return SetupError(
                'No package index could be reached: connect to the network, or name an index that can '
                'be reached with PIP_INDEX_URL, and run the same command again.'
            )
        lines = [line.strip() for line in last.splitlines()]
        errors = [line for line in lines if re.match(r'\w+Error\b', line)] or [
            line for line in lines if 'error' in line.lower()
        ]
        return SetupError(
            '{} failed{}; the full output is in {}.'.format(
                what, ' (' + errors[0][:200] + ')' if errors else '', os.path.relpath(self.log)
            )
        )

    def say(self, text):
        print(text, flush=True)

    def begin(self, what):
        self.step += 1
        print('[{}/{}] {} ...'.format(self.step, STEPS, what), end='', flush=True)
        return time.time()

    def end(self, started):
        print(' ' + minutes(time.time() - started), flush=True)


def minutes(seconds):
    return '{} min {:02d} s'.format(*divmod(round(seconds), 60))


if __name__ == '__main__':
    main()
