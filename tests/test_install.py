"""Guards the messages and decisions of the set-up script; that it succeeds, every test run shows."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = str(Path(sys.base_prefix) / 'bin' / 'python3')
OFFLINE = dict(
    PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_FIND_LINKS='', PIP_EXTRA_INDEX_URL=''
)


@pytest.fixture
def checkout(tmp_path):
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    shutil.copy(ROOT / 'setup.py', tmp_path)
    return tmp_path


def install(checkout, *arguments, **environment):
    return subprocess.run(
        [BASE, checkout / 'requirements' / 'install.py', *arguments],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def complaint(done):
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    return line


def interpreter(folder, name, version):
    """A program that claims to be some version of Python."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho {version}\n')
    path.chmod(0o755)
    return path


def test_an_unsupported_python_is_refused(checkout):
    python = interpreter(checkout, 'python3.8', '3.8')
    assert complaint(install(checkout, '--python', str(python))) == (
        f'set-up: mmacmix needs Python 3.10, 3.11 or 3.12 ({python} is Python 3.8); name one with '
        'PYTHON=/path/to/python3.'
    )


def test_a_missing_python_is_named(checkout):
    assert 'nowhere/python3 is not usable' in complaint(install(checkout, '--python', 'nowhere/python3'))


def test_a_missing_compiler_is_named(checkout):
    line = complaint(install(checkout, CXX='no-such-compiler'))
    assert "'no-such-compiler' is not on the PATH" in line and 'apt install g++' in line
    assert not (checkout / '.venv').exists()


def test_an_unknown_lane_is_refused(checkout):
    assert complaint(install(checkout, '--lane', 'fast')) == (
        "set-up: unknown lane 'fast': use LANE=openmmlab or LANE=onedl."
    )


def test_a_missing_network_is_reported_in_one_sentence(checkout):
    assert complaint(install(checkout, **OFFLINE)).startswith('set-up: No package index could be reached')


def test_a_torch_of_the_base_interpreter_is_used(checkout):
    done = install(checkout, '--python', sys.executable, **OFFLINE)
    assert 'is installed already and stays' in done.stdout
    found = subprocess.check_output(
        [checkout / '.venv' / 'bin' / 'python', '-c', 'import torch; print(torch.__file__)'], text=True
    )
    import torch

    assert found.strip() == torch.__file__


def test_a_too_old_torch_is_refused(checkout):
    old = checkout / 'old'
    subprocess.run([BASE, '-m', 'venv', '--without-pip', old], check=True)
    (site,) = (old / 'lib').glob('python*/site-packages')
    (site / 'torch').mkdir()
    (site / 'torch' / '__init__.py').write_text('__version__ = "2.1.2+cu118"')
    python = old / 'bin' / 'python'
    assert complaint(install(checkout, '--python', str(python))).startswith(
        f'set-up: {python} has torch 2.1.2+cu118, but reading checkpoints safely needs 2.6 or newer'
    )


def test_an_active_environment_of_one_lane_is_not_the_base_of_the_other(checkout):
    subprocess.run([BASE, '-m', 'venv', '--without-pip', checkout / '.venv'], check=True)
    (checkout / '.venv' / '.base').write_text(BASE)
    active = str(checkout / '.venv' / 'bin' / 'python')
    install(checkout, '--lane', 'onedl', '--python', active, **OFFLINE)
    assert (checkout / '.venv-onedl' / '.base').read_text() == BASE


def installer(checkout):
    spec = importlib.util.spec_from_file_location('install', checkout / 'requirements' / 'install.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Installer('openmmlab', BASE, named=False)


@pytest.mark.parametrize('version', ['', 'locked+cu130', '2.6.0+cu124'])
def test_a_torch_of_another_version_keeps_its_requirements(checkout, version):
    set_up = installer(checkout)
    locked = (checkout / 'requirements' / 'torch.txt').read_text().strip().removeprefix('torch==')
    version = version.replace('locked', locked)
    subprocess.run([BASE, '-m', 'venv', '--without-pip', checkout / '.venv'], check=True)
    if version:
        (site,) = (checkout / '.venv' / 'lib').glob('python*/site-packages')
        (site / 'torch').mkdir()
        (site / 'torch' / '__init__.py').write_text(f'__version__ = "{version}"')
        metadata = site / f'torch-{version}.dist-info' / 'METADATA'
        metadata.parent.mkdir()
        metadata.write_text(
            f'Metadata-Version: 2.1\nName: torch\nVersion: {version}\n'
            'Requires-Dist: sympy==1.13.1\nRequires-Dist: typing_extensions>=4.8\n'
        )
    set_up.pip = lambda arguments: None
    set_up.install_torch()
    lock, constraints = (
        [line.partition('==')[0] for line in path.read_text().splitlines() if '==' in line]
        for path in (checkout / 'requirements' / 'lock-openmmlab.txt', checkout / '.venv' / 'constraints.txt')
    )
    unconstrained = {'setuptools', 'torch', 'triton'}
    if version == '2.6.0+cu124':
        unconstrained |= {'sympy', 'torchvision', 'typing-extensions'}
    assert set(lock) - set(constraints) == unconstrained and set(constraints) <= set(lock)


def test_every_call_of_pip_is_constrained(checkout):
    set_up = installer(checkout)
    calls = []
    set_up.call = lambda command, environment=None: calls.append(command) or 0
    set_up.create_environment = lambda: os.mkdir(set_up.venv)
    set_up.run()
    pip = [command for command in calls if 'pip' in command]
    assert len(pip) >= 5 and all(set_up.constraints in command for command in pip)


@pytest.mark.parametrize('change', [None, 'pin', 'lock', 'interpreter'])
def test_a_finished_environment_is_left_alone_until_a_pin_or_the_interpreter_changes(checkout, change):
    (checkout / '.venv' / 'bin').mkdir(parents=True)
    (checkout / '.venv' / 'bin' / 'python').symlink_to(sys.executable)
    (checkout / '.venv' / '.ready').write_text(installer(checkout).fingerprint())
    (checkout / '.venv' / '.base').write_text(BASE)
    if change == 'pin':
        (checkout / 'requirements' / 'torch.txt').write_text('torch==2.14.0')
    elif change == 'lock':
        lock = checkout / 'requirements' / 'lock-openmmlab.txt'
        lock.write_text(lock.read_text().replace('matplotlib==', 'matplotlib==9'))
    # If anything has to be installed, the missing compiler stops the set-up.
    named = ['--python', sys.executable if change == 'interpreter' else BASE]
    done = install(checkout, *named, CXX='no-such-compiler')
    assert (done.stdout == '') == (done.returncode == 0) == (change is None)
