#!/usr/bin/env python3
"""Set up a virtual environment with mmacmix and one lane of OpenMMLab packages.

    python3 requirements/install.py [--lane openmmlab|onedl] [--python INTERPRETER] [--mmcv compiled]

The environment is `.venv` (lane onedl: `.venv-onedl`) in the root of the checkout, with the versions
of the lane's lock. A second run does nothing. The script needs only the standard library, and parses
on old interpreters, so that they can report what is wrong.

A torch that the chosen interpreter already has is used as it is, and so is its mmcv if that has
operators: the new environment can import the packages of the interpreter's environment, after its own,
and does not change them.

Otherwise mmcv's operators depend on the build of torch. Beside one with CUDA, nothing is compiled:
mmcv-lite gets operators that run on those of torchvision (`python -m mmacmix.mmcv_ext`). Beside a CPU
build, for which PyPI's torchvision has no operators, mmcv is compiled unless the interpreter has a
torchvision that works. With `--mmcv compiled` it is compiled beside any.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import mmcv_build
from environment import ROOT, Environment, SetupError, output_or_none, read, release, write

REQUIREMENTS = os.path.join(ROOT, 'requirements')
PYTHON_VERSIONS = ('3.12', '3.11', '3.10', '3.13')
LANES = ('openmmlab', 'onedl')
OLDEST_TORCH, OLDEST_TESTED_TORCH = (2, 0), (2, 1)
OLDEST_TORCH_FOR_TRITON = (2, 4)
MMCV_OF_MMDET = ((2, 0), (2, 2))  # mmdet 3.3 asserts a version from the first to below the second
# Of torch 2.13: what to say before the download, and the free disk space in GB that the environment needs.
CUDA_BUILD = ('PyTorch for NVIDIA GPUs, which also runs on CPUs; 2.7 GB to download, 4.7 GB installed', 6)
CPU_BUILD = ('PyTorch for CPUs; about 0.2 GB to download', 3)
UNKNOWN_BUILD = ('PyTorch; 2.7 GB to download if it is a build with CUDA, 0.2 GB without', 6)
STEPS = 5
# Not constrained by the lock: an existing torch stays and brings its own triton, and torch may require a setuptools
# with which mmcv cannot be built.
UNCONSTRAINED = ('setuptools', 'torch', 'triton')
BASE_FILE = '.base'  # in an environment; contains the path of its base interpreter
# Prints three lines about the first mmcv on the path: its version, whether its operators have CUDA just as torch does,
# and their file. Fails if they do not load. mmcv itself is not imported, as OpenCV may need to be replaced first.
FIND_MMCV = """
import importlib.util, os, runpy, torch
from importlib.machinery import PathFinder
folder = os.path.dirname(importlib.util.find_spec('mmcv').origin)
spec = PathFinder.find_spec('_ext', [folder])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(runpy.run_path(os.path.join(folder, 'version.py'))['__version__'])
print((module.get_compiling_cuda_version() != 'not available') == bool(torch.version.cuda))
print(spec.origin)
"""
# Prints the version of torch and the file of mmcv's operators, without importing either.
FIND_INSTALLED = """
from importlib.machinery import PathFinder
from importlib.metadata import version
from importlib.util import find_spec
mmcv = find_spec('mmcv')
operators = mmcv and PathFinder.find_spec('_ext', list(mmcv.submodule_search_locations))
print(version('torch'), operators and operators.origin)
"""
TORCH_VERSION = 'from importlib.metadata import version; print(version("torch"))'
FIND_TORCHVISION = 'import importlib.util as u; print(u.find_spec("torchvision"))'
TRY_TORCHVISION = 'import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)'


def main():
    parser = argparse.ArgumentParser(description='Set up an environment for mmacmix.')
    parser.add_argument('--lane', default='openmmlab', help='openmmlab (stock packages) or onedl (maintained forks)')
    parser.add_argument(
        '--python', default='', help='base interpreter; default: the running one if its version is supported'
    )
    parser.add_argument('--mmcv', default='', help="compiled: compile mmcv's operators beside any torch")
    args = parser.parse_args()
    try:
        if not sys.platform.startswith('linux'):
            raise SetupError(
                'this works on Linux only: elsewhere, install the package with pip into an environment that has '
                'mmengine and mmcv (on Windows, WSL2 is Linux).'
            )
        if args.lane not in LANES:
            raise SetupError("unknown lane '{}': use LANE=openmmlab or LANE=onedl.".format(args.lane))
        if args.mmcv not in ('', 'compiled'):
            raise SetupError("unknown source of operators '{}': use MMCV=compiled, or leave it out.".format(args.mmcv))
        python = find_python(args.python)
        Installer(args.lane, python, named=bool(args.python), compiled=bool(args.mmcv)).run()
    except SetupError as error:
        sys.exit('set-up: {}'.format(error))
    except KeyboardInterrupt:
        sys.exit('set-up: interrupted; run the same command again to continue.')


def find_python(wanted):
    """Path of a Python 3.10-3.13: `wanted` if given, else the running one, else one on the PATH."""
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
        'mmacmix needs Python 3.10 to 3.13 ({}); name one with PYTHON=/path/to/python3.'.format(', '.join(found))
    )


def base_of_own_environment(python):
    """The base interpreter if `python` is in an environment of this checkout, else `python`.

    An active environment of one lane must not become the base of the other lane's.
    """
    venv = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    base = read(os.path.join(venv, BASE_FILE)) if os.path.dirname(venv) == ROOT else ''
    return base or python


def pins(name):
    """The requirements in a file of this folder: ['package==version', ...]."""
    with open(os.path.join(REQUIREMENTS, name + '.txt')) as lines:
        return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


def name_of(requirement):
    """The package name of a requirement, normalised as in the locks."""
    return re.sub('[-_.]+', '-', re.match(r'[\w.-]+', requirement).group()).lower()


class Installer:
    """Fills one environment in steps that can be repeated."""

    def __init__(self, lane, python, named, compiled=False):
        self.lane, self.base_python, self.named = lane, os.path.abspath(python), named
        self.venv = os.path.join(ROOT, '.venv' if lane == 'openmmlab' else '.venv-' + lane)
        self.environment = Environment(self.venv)
        self.ready = os.path.join(self.venv, '.ready')
        self.base = os.path.join(self.venv, BASE_FILE)
        self.compiled_file = os.path.join(self.venv, '.compiled')  # exists if compiling was asked for
        self.compiled = compiled or os.path.exists(self.compiled_file)
        if not named and os.path.exists(read(self.base)):
            self.base_python = read(self.base)
        (self.mmcv,) = [pin for pin in pins(lane) if pin.split('==')[0] in ('mmcv', 'onedl-mmcv')]
        self.step = 0

    def run(self):
        if self.is_ready():
            return
        started = time.time()
        self.say('Setting up {} with lane {} (once).'.format(os.path.relpath(self.venv), self.lane))
        others = [pin for pin in pins(self.lane) if pin != self.mmcv]
        build = pins('build') + [pin for pin in others if pin.split('==')[0] in ('numpy', 'setuptools')]
        self.create_environment()
        self.install_torch()
        # After torch, which may upgrade setuptools to a version with which mmcv cannot be built.
        self.install('build tools and numpy', build)
        mmcv = self.install_mmcv()
        self.install(
            'MMDetection, MMSegmentation, MMPretrain, tools for tests, mmacmix',
            mmcv + others + pins('build') + pins('dev'),
            self.install_without_libgl,
            self.install_torchvision,
            self.install_triton,
            self.install_timm,
            self.install_mmacmix,
        )
        if mmcv and mmcv[0].startswith('mmcv-lite'):
            self.install_stand_in()
        self.check()
        if self.compiled:
            write(self.compiled_file, '')
        write(self.ready, self.fingerprint())
        self.say('Set-up done in {}.'.format(minutes(time.time() - started)))
        subprocess.call([self.environment.python, os.path.join(REQUIREMENTS, 'device.py')])

    def fingerprint(self):
        """A hash of everything that determines what is installed, and of the torch and operators that are there."""
        installed = self.environment.ask(FIND_INSTALLED) or ''
        digest = hashlib.sha256(' '.join([ROOT, self.lane, str(self.compiled), installed]).encode())
        for name in ('build', 'torch', 'torchvision', 'triton', 'timm', 'dev', self.lane, 'lock-' + self.lane):
            digest.update('\n'.join(pins(name)).encode())
        for path in ('setup.py', os.path.join('mmacmix', 'mmcv_ext', 'operators.py')):
            digest.update(read(os.path.join(ROOT, path)).encode())
        return digest.hexdigest()

    def installed_torch(self):
        """The version of torch in the environment's metadata, read without importing it."""
        return self.environment.ask(TORCH_VERSION)

    def is_ready(self):
        if not os.path.exists(self.ready) or (self.named and not self.is_built_on_base()):
            return False
        return read(self.ready) == self.fingerprint()

    def is_built_on_base(self):
        return read(self.base) == self.base_python

    # -- steps ---------------------------------------------------------------------------------------

    def create_environment(self):
        started = self.begin('virtual environment on {}'.format(self.base_python))
        if os.path.exists(self.ready):
            os.remove(self.ready)
        pip = [self.environment.python, '-m', 'pip', '--version']
        if not self.is_built_on_base() or output_or_none(pip) is None:
            self.create_venv()
        self.link_torch_of_base()
        write(self.base, self.base_python)
        self.end(started)

    def create_venv(self):
        command = [self.base_python, '-m', 'venv', '--clear', self.venv]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if not done.returncode:
            return
        if 'ensurepip' in done.stdout or 'No module named venv' in done.stdout:
            reason = 'install its venv module (Debian and Ubuntu: apt install python3-venv)'
        else:
            reason = done.stdout.strip().splitlines()[-1]
        raise SetupError('{} cannot create a virtual environment: {}'.format(self.base_python, reason))

    def link_torch_of_base(self):
        """Make the packages of the base interpreter's environment importable if it has torch."""
        find = 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))'
        folder = output_or_none([self.base_python, '-c', find])
        if folder and not folder.startswith(self.venv + os.sep):
            site = self.environment.ask('import sysconfig; print(sysconfig.get_paths()["purelib"])')
            write(os.path.join(site, 'base_environment.pth'), folder + '\n')

    def install_torch(self):
        version = self.environment.ask('import torch; ' + TORCH_VERSION)
        if version and release(version) < OLDEST_TORCH:
            raise SetupError(
                '{} has torch {}, but mmacmix needs 2.1 or newer: upgrade it, or name another Python with '
                'PYTHON=/path/to/python3.'.format(self.base_python, version)
            )
        self.write_constraints(version)
        if version:
            self.check_build(version)
            self.begin('torch {} is installed already and stays'.format(version))
            old = release(version) < OLDEST_TESTED_TORCH
            self.say(' (mmacmix is tested with 2.1 and newer: expect that something is missing)' if old else '')
            return
        planned, (purpose, gigabytes) = self.planned_torch()
        self.check_build(planned)
        free = shutil.disk_usage(self.venv).free / 1e9
        if free < gigabytes:
            raise SetupError(
                'The environment needs about {} GB, and the disk of {} has {:.1f} GB left: make room, or use a '
                'checkout on another disk.'.format(gigabytes, self.venv, free)
            )
        self.install('{}: {}'.format(pins('torch')[0], purpose), pins('torch'))
        self.write_constraints(self.installed_torch())

    def planned_torch(self):
        """The version of the torch that pip would install, empty if unknown, and what there is to say of it."""
        found = self.planned(pins('torch'))
        version = found.get('torch', '')
        if any(name.startswith('nvidia-') for name in found):
            return version, CUDA_BUILD
        return version, CPU_BUILD if version and version.split('+')[-1] in (version, 'cpu') else UNKNOWN_BUILD

    def planned(self, requirements):
        """What pip would install, {name: version}; empty if it cannot tell, as those older than 22.2."""
        report = os.path.join(self.venv, 'report.json')
        command = self.environment.pip_install('--quiet', '--dry-run', '--report', report, *requirements)
        if self.environment.call(command):
            if self.environment.network_failed():
                raise self.environment.failure('pip')
            return {}
        found = [each['metadata'] for each in json.loads(read(report))['install']]
        return {name_of(each['name']): each['version'] for each in found}

    def write_constraints(self, torch):
        """Write the lane's lock for pip, and the torch that must stay.

        A torch of another version than the locked one keeps the packages that it requires.
        """
        unconstrained = set(UNCONSTRAINED)
        if torch and 'torch==' + torch.split('+')[0] not in [pin.replace('===', '==') for pin in pins('torch')]:
            show = 'from importlib.metadata import requires; print(*requires("torch"), sep="\\n")'
            required = self.environment.ask(show) or ''
            unconstrained.update(['torchvision'], [name_of(line) for line in required.splitlines()])
        lines = [pin for pin in pins('lock-' + self.lane) if name_of(pin) not in unconstrained]
        if torch:
            lines.append('torch==' + torch)
        write(self.environment.constraints, '\n'.join(lines) + '\n')

    def check_build(self, torch):
        """Before anything large is downloaded: if mmcv is to be compiled, can it be?"""
        if self.is_to_be_compiled(torch) and not self.mmcv_that_stays():
            mmcv_build.check(self.mmcv, torch, self.base_python, self.way_out())

    def is_to_be_compiled(self, torch):
        if self.compiled or self.lane == 'onedl':
            return True
        return '+cpu' in torch and self.environment.ask(TRY_TORCHVISION) is None

    def way_out(self):
        """What else the user can do if mmcv cannot be compiled, as the end of a sentence."""
        if self.lane == 'onedl':
            return ''
        if self.compiled:
            return ', or leave out MMCV=compiled'
        return ', or name a Python whose torchvision works with its torch, where nothing is compiled'

    def mmcv_that_stays(self):
        """Of an installed mmcv that is used as it is: its version, whether set-up installed it, and whether its
        operators have CUDA just as torch does. Else None.
        """
        found = (self.environment.ask(FIND_MMCV) or '').splitlines()
        if len(found) != 3:
            return None
        version, fits_cuda, operators = found[0], found[1] == 'True', found[2]
        own = operators.startswith(self.venv + os.sep)
        if own or self.lane == 'onedl':
            stays = self.mmcv.endswith('mmcv==' + version) and fits_cuda and not operators.endswith('.py')
        else:
            stays = not self.compiled and MMCV_OF_MMDET[0] <= release(version) < MMCV_OF_MMDET[1]
        return (version, own, fits_cuda) if stays else None

    def install_mmcv(self):
        """Install mmcv if needed, and return, in a list, the requirement whose dependencies are still missing."""
        found = self.mmcv_that_stays()
        if found:
            version, own, fits_cuda = found
            self.begin('mmcv {} is installed already, has operators and stays'.format(version))
            self.say('' if fits_cuda else ' (its operators run on CPUs only, see docs/install.md)')
            return [self.mmcv] if own else []
        if not self.is_to_be_compiled(self.installed_torch()):
            lite = self.mmcv.replace('mmcv==', 'mmcv-lite==')
            started = self.begin(lite + ', whose operators will run on those of torchvision')
            if self.has_torchvision():
                self.environment.uninstall('mmcv')
                self.environment.pip('--no-deps', '--ignore-installed', lite)
                self.end(started)
                return [lite]
            self.environment.uninstall('torchvision')
            if self.environment.ask('import torch; print(torch.version.cuda or "")'):
                raise SetupError(
                    'The torchvision that was found does not work with torch {}: install the one that belongs to it '
                    'beside it, or compile the operators of mmcv with MMCV=compiled.'.format(self.installed_torch())
                )
            self.step -= 1
            self.say(' torchvision has no operators for this torch: mmcv is compiled')
        started = self.begin(self.mmcv + ' with its operators compiled (on two cores 3 to 6 minutes; with CUDA 20)')
        self.environment.uninstall('mmcv', 'mmcv-lite')
        mmcv_build.check(self.mmcv, self.installed_torch(), self.base_python, self.way_out())
        mmcv_build.build(self.environment, self.mmcv, self.way_out())
        self.end(started)
        return [self.mmcv]

    def has_torchvision(self):
        """Whether torchvision's operators work, after it has been installed if it was missing."""
        if self.environment.ask(FIND_TORCHVISION) == 'None':
            self.environment.pip('--no-deps', self.torchvision_of_torch(), 'pillow')
        return self.environment.ask(TRY_TORCHVISION) is not None

    def torchvision_of_torch(self):
        """A requirement for the torchvision that belongs to the installed torch."""
        planned = self.planned(['torchvision']).get('torchvision')
        minor = release(self.installed_torch())[1]  # torch 2.6 goes with 0.21, 2.13 with 0.28
        return 'torchvision==' + (planned or '0.{}.*'.format(minor + 15))

    def install_stand_in(self):
        """Give mmcv-lite its operators."""
        if self.environment.call([self.environment.python, '-m', 'mmacmix.mmcv_ext']):
            raise SetupError(self.environment.last_output().strip().splitlines()[-1])

    def install_without_libgl(self):
        """Replace mmcv's OpenCV by one without a GUI if it cannot be imported: bare servers lack libGL."""
        version = self.environment.ask('from importlib.metadata import version; print(version("opencv-python"))')
        if version and self.environment.ask('import cv2; print(1)') is None:
            self.environment.pip('--no-deps', '--force-reinstall', 'opencv-python-headless==' + version)

    def install_torchvision(self):
        """Install torchvision, which MMPretrain imports, in a separate folder known to the tests of ImageNet configs.

        Beside a CPU build of torch it has no operators, and other packages fail if they find it without them.
        """
        if self.environment.ask(FIND_TORCHVISION) == 'None':
            target = os.path.join(self.venv, 'torchvision')
            self.environment.pip('--no-deps', '--upgrade', '--target', target, self.torchvision_of_torch())

    def install_triton(self):
        """GPU builds of torch bring Triton; with others, its interpreter runs the kernels on the CPU in tests."""
        if release(self.installed_torch()) < OLDEST_TORCH_FOR_TRITON:
            return
        if self.environment.ask('import triton; print(1)') != '1':
            self.environment.pip('--no-deps', *pins('triton'))

    def install_timm(self):
        """Install timm and what is tested on top of it, which find the torchvision of the tests."""
        self.environment.pip('--no-deps', *pins('timm'))

    def install_mmacmix(self):
        self.environment.pip('--no-deps', '--no-build-isolation', '--editable', ROOT)

    def check(self):
        command = [self.environment.python, '-c', 'import mmcv.ops, mmdet, mmacmix']
        if self.environment.call(command):
            raise self.environment.failure('Importing the installed packages')

    # -- output --------------------------------------------------------------------------------------

    def install(self, what, requirements, *then):
        started = self.begin(what)
        self.environment.pip(*requirements)
        for action in then:
            action()
        self.end(started)

    def say(self, text):
        print(text, flush=True)

    def begin(self, what):
        self.step += 1
        print('[{}/{}] {} ...'.format(self.step, STEPS, what), end='', flush=True)
        return time.time()

    def end(self, started):
        self.say(' ' + minutes(time.time() - started))


def minutes(seconds):
    return '{} min {:02d} s'.format(*divmod(round(seconds), 60))


if __name__ == '__main__':
    main()
