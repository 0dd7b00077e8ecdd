"""Guards the messages and decisions of the set-up; that it succeeds, every test run shows."""

import ast
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
BASE = str(Path(sys.base_prefix) / 'bin' / 'python3')
OFFLINE = dict(
    PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_FIND_LINKS='', PIP_EXTRA_INDEX_URL=''
)
NO_COMPILER = dict(CXX='no-such-compiler')


@pytest.fixture
def checkout(tmp_path):
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements', ignore=shutil.ignore_patterns('__pycache__'))
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


def with_torch(folder, version, requires=()):
    """The interpreter of an environment that holds no more than the version of a torch."""
    subprocess.run([BASE, '-m', 'venv', '--without-pip', folder], check=True)
    (site,) = (folder / 'lib').glob('python*/site-packages')
    (site / 'torch').mkdir()
    cuda = 'None' if '+cpu' in version else '"13.0"'
    (site / 'torch' / '__init__.py').write_text(
        f'from types import SimpleNamespace\n__version__ = "{version}"\nversion = SimpleNamespace(cuda={cuda})\n'
    )
    metadata = site / f'torch-{version}.dist-info' / 'METADATA'
    metadata.parent.mkdir()
    metadata.write_text(
        '\n'.join(
            ['Metadata-Version: 2.1', 'Name: torch', f'Version: {version}', *(f'Requires-Dist: {r}' for r in requires)]
        )
    )
    return folder / 'bin' / 'python'


def add_mmcv(python, version, cuda='"13.0"'):
    """Add an mmcv whose operators load."""
    (site,) = (python.parents[1] / 'lib').glob('python*/site-packages')
    (site / 'mmcv').mkdir()
    (site / 'mmcv' / '__init__.py').touch()
    (site / 'mmcv' / 'version.py').write_text(f'__version__ = "{version}"')
    (site / 'mmcv' / '_ext.py').write_text(f'def get_compiling_cuda_version():\n    return {cuda}\n')


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_an_unsupported_python_is_refused(checkout):
    python = interpreter(checkout, 'python3.8', '3.8')
    assert complaint(install(checkout, '--python', str(python))) == (
        f'set-up: mmacmix needs Python 3.10 to 3.13 ({python} is Python 3.8); name one with PYTHON=/path/to/python3.'
    )


@pytest.mark.parametrize('name', ['install', 'environment', 'mmcv_build'])
def test_the_scripts_parse_on_old_interpreters(name):
    ast.parse((ROOT / 'requirements' / f'{name}.py').read_text(), feature_version=(3, 6))


def test_a_missing_python_is_named(checkout):
    assert 'nowhere/python3 is not usable' in complaint(install(checkout, '--python', 'nowhere/python3'))


def test_an_unknown_lane_is_refused(checkout):
    assert complaint(install(checkout, '--lane', 'fast')) == (
        "set-up: unknown lane 'fast': use LANE=openmmlab or LANE=onedl."
    )


def test_an_unknown_source_of_operators_is_refused(checkout):
    assert complaint(install(checkout, '--mmcv', 'prebuilt')) == (
        "set-up: unknown source of operators 'prebuilt': use MMCV=compiled, or leave it out."
    )


def test_a_missing_network_is_reported_in_one_sentence(checkout):
    assert complaint(install(checkout, **OFFLINE)).startswith('set-up: No package index could be reached')


def test_a_missing_compiler_is_named_where_mmcv_is_compiled(checkout):
    python = with_torch(checkout / 'base', '2.13.0+cpu')
    line = complaint(install(checkout, '--python', str(python), **NO_COMPILER))
    assert "'no-such-compiler' is not on the PATH" in line and 'apt install g++' in line


def test_beside_a_cuda_build_no_compiler_is_needed_unless_asked_for(checkout):
    python = str(with_torch(checkout / 'base', '2.13.0+cu130'))
    done = install(checkout, '--python', python, **NO_COMPILER, **OFFLINE)
    assert complaint(done).startswith('set-up: No package index') and '[3/5]' in done.stdout
    line = complaint(install(checkout, '--python', python, '--mmcv', 'compiled', **NO_COMPILER, **OFFLINE))
    assert "'no-such-compiler' is not on the PATH" in line


def test_a_torch_whose_headers_need_cxx20_is_named(checkout):
    python = with_torch(checkout / 'base', '2.15.0+cpu')
    assert complaint(install(checkout, '--python', str(python), **OFFLINE)) == (
        'set-up: mmcv==2.1.0 is written in C++17 and cannot be compiled with torch 2.15.0+cpu: name a Python that has '
        'torch 2.13 or older with PYTHON=/path/to/python3, or name a Python whose torchvision works with its torch, '
        'where nothing is compiled.'
    )


@pytest.mark.parametrize(
    'lane, compiled, end',
    [('openmmlab', True, ', or leave out MMCV=compiled.'), ('onedl', False, 'PYTHON=/path/to/python3.')],
)
def test_the_way_out_of_a_build_follows_its_reason(modules, lane, compiled, end):
    set_up = modules.install.Installer(lane, BASE, named=False, compiled=compiled)
    with pytest.raises(modules.environment.SetupError) as caught:
        set_up.check_build('2.15.0+cu130')
    assert str(caught.value).endswith(end)


def test_another_system_than_linux_is_named(modules, monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'darwin')
    monkeypatch.setattr(sys, 'argv', ['install.py'])
    with pytest.raises(SystemExit, match=r'^set-up: this works on Linux only: elsewhere, install'):
        modules.install.main()


def test_a_folder_that_cannot_be_written_is_not_taken_for_a_missing_module(modules):
    set_up = modules.install.Installer('openmmlab', BASE, named=False)
    set_up.venv = '/proc/environment'
    with pytest.raises(modules.environment.SetupError, match=r'cannot create a virtual environment: .*/proc'):
        set_up.create_venv()


@pytest.mark.parametrize('version', ['1.13.1+cu117', '2.0.1+cu118', '2.1.2+cu118'])
def test_torch_2_1_is_accepted_2_0_tried_and_an_older_one_refused(checkout, version):
    python = with_torch(checkout / 'old', version)
    done = install(checkout, '--python', str(python), **OFFLINE)
    if version.startswith('1.'):
        assert complaint(done) == (
            f'set-up: {python} has torch {version}, but mmacmix needs 2.1 or newer: upgrade it, or name another Python '
            'with PYTHON=/path/to/python3.'
        )
    else:
        assert f'torch {version} is installed already and stays' in done.stdout
        assert ('mmacmix is tested with 2.1 and newer' in done.stdout) == version.startswith('2.0')


# -- what is used as it is ---------------------------------------------------------------------------------------------


def test_a_torch_of_the_base_interpreter_is_used(checkout):
    done = install(checkout, '--python', sys.executable, **OFFLINE)
    assert 'is installed already and stays' in done.stdout
    found = subprocess.check_output(
        [checkout / '.venv' / 'bin' / 'python', '-c', 'import torch; print(torch.__file__)'], text=True
    )
    import torch

    assert found.strip() == torch.__file__


def test_an_active_environment_of_one_lane_is_not_the_base_of_the_other(checkout):
    subprocess.run([BASE, '-m', 'venv', '--without-pip', checkout / '.venv'], check=True)
    (checkout / '.venv' / '.base').write_text(BASE)
    active = str(checkout / '.venv' / 'bin' / 'python')
    install(checkout, '--lane', 'onedl', '--python', active, **OFFLINE)
    assert (checkout / '.venv-onedl' / '.base').read_text() == BASE


@pytest.mark.parametrize('change', [None, 'pin', 'lock', 'interpreter', 'torch', 'mmcv', 'operators'])
def test_a_finished_environment_is_left_alone_until_something_changes(checkout, change, modules):
    with_torch(checkout / '.venv', '2.13.0+cpu')
    (checkout / '.venv' / '.base').write_text(BASE)
    set_up = modules.install.Installer('openmmlab', BASE, named=False)
    (checkout / '.venv' / '.ready').write_text(set_up.fingerprint())
    if change == 'torch':
        shutil.rmtree(checkout / '.venv')
        with_torch(checkout / '.venv', '2.12.0+cpu')
    elif change == 'mmcv':
        add_mmcv(checkout / '.venv' / 'bin' / 'python', '2.1.0')
    elif change == 'pin':
        (checkout / 'requirements' / 'torch.txt').write_text('torch==2.14.0')
    elif change == 'lock':
        lock = checkout / 'requirements' / 'lock-openmmlab.txt'
        lock.write_text(lock.read_text().replace('matplotlib==', 'matplotlib==9'))
    named = ['--python', sys.executable if change == 'interpreter' else BASE]
    if change == 'operators':
        named += ['--mmcv', 'compiled']
    # If anything has to be installed, the missing network stops the set-up.
    done = install(checkout, *named, **OFFLINE)
    assert (done.stdout == '') == (done.returncode == 0) == (change is None)


def test_compiled_operators_once_asked_for_stay(checkout, modules):
    with_torch(checkout / '.venv', '2.13.0+cu130')
    set_up = modules.install.Installer('openmmlab', BASE, named=False, compiled=True)
    (checkout / '.venv' / '.ready').write_text(set_up.fingerprint())
    (checkout / '.venv' / '.compiled').touch()
    assert modules.install.Installer('openmmlab', BASE, named=False).is_ready()


def test_a_base_interpreter_that_is_gone_is_replaced(checkout, modules):
    (checkout / '.venv').mkdir()
    (checkout / '.venv' / '.base').write_text('/gone/bin/python3')
    assert modules.install.Installer('openmmlab', BASE, named=False).base_python == BASE


# -- decisions ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def modules(checkout, monkeypatch):
    """The modules of the set-up, for the checkout of the test."""
    names = ('environment', 'mmcv_build', 'install')
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(checkout / 'requirements')
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


@pytest.fixture
def set_up(modules, monkeypatch):
    """A set-up that records commands instead of running them; ``answers`` are those of the environment's Python."""
    set_up = modules.install.Installer('openmmlab', BASE, named=False)
    os.mkdir(set_up.venv)
    set_up.commands, set_up.answers = [], {}
    set_up.environment.ask = lambda code: next((a for part, a in set_up.answers.items() if part in code), None)
    set_up.environment.call = lambda command, **variables: set_up.commands.append((command, variables)) or 0
    return set_up


def commands(set_up):
    return [' '.join(command) for command, _variables in set_up.commands]


def planned(set_up, *packages):
    """Let pip plan to install packages, each given as name==version."""

    def call(command, **variables):
        set_up.commands.append((command, variables))
        if '--report' in command:
            found = [dict(zip(('name', 'version'), each.split('=='), strict=True)) for each in packages]
            report = dict(install=[dict(metadata=each) for each in found])
            Path(command[command.index('--report') + 1]).write_text(json.dumps(report))
        return 0

    set_up.environment.call = call


@pytest.mark.parametrize(
    'packages, version, words',
    [
        (['torch==2.13.0', 'nvidia-cudnn-cu13==9.20.0.48'], '2.13.0', '2.7 GB to download, 4.7 GB installed'),
        (['torch==2.13.0+cpu', 'sympy==1.14.0'], '2.13.0+cpu', 'PyTorch for CPUs; about 0.2 GB'),
        (['torch==2.13.0', 'sympy==1.14.0'], '2.13.0', 'PyTorch for CPUs; about 0.2 GB'),
        ([], '', '2.7 GB to download if it is a build with CUDA, 0.2 GB without'),
    ],
)
def test_the_size_and_purpose_of_torch_are_told_before_the_download(set_up, packages, version, words):
    planned(set_up, *packages)
    found, (purpose, gigabytes) = set_up.planned_torch()
    assert found == version and words in purpose and gigabytes >= 3


def test_an_old_pip_that_cannot_plan_installs_all_the_same(set_up):
    set_up.environment.call = lambda command, **variables: 2
    Path(set_up.environment.log).write_text('no such option: --dry-run')
    assert set_up.planned_torch()[0] == ''


def test_a_full_disk_is_reported_before_the_download(set_up, modules, monkeypatch):
    planned(set_up, 'torch==2.13.0', 'nvidia-cudnn-cu13==9.20.0.48')
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(modules.install.shutil, 'disk_usage', lambda path: usage(10e9, 8e9, 2e9))
    with pytest.raises(
        modules.environment.SetupError, match=r'needs about 6 GB, and the disk of .* has 2.0 GB left: make room'
    ):
        set_up.install_torch()
    assert all('--dry-run' in command for command in commands(set_up))


@pytest.mark.parametrize('version', ['', 'locked+cu130', '2.6.0+cu124'])
def test_a_torch_of_another_version_keeps_its_requirements(checkout, modules, version):
    locked = (checkout / 'requirements' / 'torch.txt').read_text().strip().removeprefix('torch==')
    version = version.replace('locked', locked)
    set_up = modules.install.Installer('openmmlab', BASE, named=False)
    if version:
        with_torch(checkout / '.venv', version, ['sympy==1.13.1', 'typing_extensions>=4.8'])
    else:
        os.mkdir(set_up.venv)
    set_up.write_constraints(version)
    lock, constraints = (
        {line.partition('==')[0].strip() for line in path.read_text().splitlines() if '==' in line}
        for path in (checkout / 'requirements' / 'lock-openmmlab.txt', checkout / '.venv' / 'constraints.txt')
    )
    unconstrained = {'setuptools', 'triton'}
    if version == '2.6.0+cu124':
        unconstrained |= {'sympy', 'torchvision', 'typing-extensions'}
    if version:  # nothing may change it
        assert f'torch=={version}' in (checkout / '.venv' / 'constraints.txt').read_text()
    else:
        unconstrained.add('torch')
    assert lock - constraints == unconstrained and constraints <= lock


def test_every_call_of_pip_is_constrained(set_up, modules, monkeypatch):
    monkeypatch.setattr(modules.mmcv_build, 'check', lambda *arguments: None)
    monkeypatch.setattr(modules.install.shutil, 'disk_usage', lambda path: SimpleNamespace(free=1e12))
    monkeypatch.setattr(modules.install.subprocess, 'call', lambda command: set_up.commands.append((command, {})))
    planned(set_up, 'torch==2.13.0+cpu', 'torchvision==0.28.0')
    set_up.create_environment = lambda: None
    set_up.installed_torch = lambda: '2.13.0+cpu'
    set_up.run()
    assert commands(set_up)[-1].endswith('device.py')
    pip = [command for command, _variables in set_up.commands if 'install' in command]
    assert len(pip) >= 6 and all(set_up.environment.constraints in command for command in pip)


@pytest.mark.parametrize(
    'version, lane, compiled, stays',
    [
        ('2.1.0', 'openmmlab', False, True),
        ('2.0.1', 'openmmlab', False, True),
        ('2.2.0', 'openmmlab', False, False),  # mmdet 3.3 refuses it
        ('2.1.0', 'openmmlab', True, False),
        ('2.1.0', 'onedl', False, False),
    ],
)
def test_an_mmcv_with_operators_of_the_base_interpreter_stays(
    checkout, modules, capsys, version, lane, compiled, stays
):
    python = with_torch(checkout / 'base', '2.13.0+cpu')
    add_mmcv(python, version, cuda='"not available"')
    set_up = modules.install.Installer(lane, str(python), named=True, compiled=compiled)
    subprocess.run([BASE, '-m', 'venv', '--without-pip', set_up.venv], check=True)
    set_up.link_torch_of_base()
    assert set_up.mmcv_that_stays() == ((version, False, True) if stays else None)
    if stays:  # nothing of mmcv is installed, so no compiler is looked for
        set_up.check_build('2.13.0+cpu')
        assert set_up.install_mmcv() == []
        assert 'its operators run on CPUs only' not in capsys.readouterr().out


def test_operators_without_cuda_beside_a_torch_with_it_are_told(set_up, capsys):
    set_up.answers['get_compiling_cuda_version'] = '2.1.0\nFalse\n/usr/lib/python3/mmcv/_ext.so'
    assert set_up.install_mmcv() == []
    assert 'stays ... (its operators run on CPUs only, see docs/install.md)' in capsys.readouterr().out


def test_operators_that_do_not_load_do_not_stay(checkout, modules):
    python = with_torch(checkout / '.venv', '2.13.0+cpu')
    set_up = modules.install.Installer('openmmlab', BASE, named=False)
    assert set_up.mmcv_that_stays() is None
    add_mmcv(python, '2.1.0', cuda='undefined_symbol')
    assert set_up.mmcv_that_stays() is None


@pytest.mark.parametrize(
    'operators, fits_cuda, stays',
    [('_ext.cpython-311.so', 'True', True), ('_ext.cpython-311.so', 'False', False), ('_ext.py', 'True', False)],
)
def test_of_operators_installed_before_only_compiled_ones_for_this_torch_stay(set_up, operators, fits_cuda, stays):
    set_up.answers['get_compiling_cuda_version'] = f'2.1.0\n{fits_cuda}\n{set_up.venv}/lib/{operators}'
    assert set_up.mmcv_that_stays() == (('2.1.0', True, True) if stays else None)


def answers_of(torch, torchvision):
    """The answers of an environment with this torch and no mmcv, where torchvision works or not."""
    return {
        'version("torch")': torch,
        'find_spec("torchvision")': 'None',
        'torchvision.ops.nms': '' if torchvision else None,
        'torch.version.cuda or ""': '' if '+cpu' in torch else '13.0',
    }


def test_beside_a_cuda_build_torchvision_provides_the_operators(set_up):
    set_up.answers = answers_of('2.15.0+cu132', torchvision=True)
    planned(set_up, 'torchvision==0.29.2')
    assert set_up.install_mmcv() == ['mmcv-lite==2.1.0']
    ran = commands(set_up)
    assert any(command.endswith('--no-deps torchvision==0.29.2 pillow') for command in ran)
    assert any(command.endswith('uninstall --yes mmcv') for command in ran)
    # The base interpreter's own mmcv-lite must not count as installed, as its folder would be written to.
    assert ran[-1].endswith('--no-deps --ignore-installed mmcv-lite==2.1.0')
    set_up.install_stand_in()
    assert commands(set_up)[-1].endswith('-m mmacmix.mmcv_ext')


def test_without_plan_torchvision_is_chosen_by_number(set_up):
    set_up.answers = answers_of('2.6.0+cu124', torchvision=True)
    set_up.environment.call = lambda command, **variables: 2
    assert set_up.torchvision_of_torch() == 'torchvision==0.21.*'


def test_a_cpu_build_whose_torchvision_works_needs_no_compiler(set_up):
    set_up.answers = answers_of('2.13.0+cpu', torchvision=True) | {'find_spec("torchvision")': 'found'}
    assert set_up.install_mmcv() == ['mmcv-lite==2.1.0']


def test_a_torchvision_of_another_cuda_is_named(set_up, modules):
    set_up.answers = answers_of('2.13.0+cu126', torchvision=False)
    planned(set_up, 'torchvision==0.28.0')
    with pytest.raises(
        modules.environment.SetupError, match=r'does not work with torch 2.13.0\+cu126: install the one'
    ):
        set_up.install_mmcv()
    assert any(command.endswith('uninstall --yes torchvision') for command in commands(set_up))


@pytest.mark.parametrize('torch, torchvision', [('2.13.0+cpu', False), ('2.13.0', False)])
def test_where_torchvision_has_no_operators_mmcv_is_compiled(set_up, torch, torchvision, capsys):
    set_up.answers = answers_of(torch, torchvision)
    planned(set_up, 'torchvision==0.28.0')
    set_up.answers['torch.version.cuda or ""'] = ''
    assert set_up.install_mmcv() == ['mmcv==2.1.0']
    ran = commands(set_up)
    assert '--no-cache-dir --no-deps --ignore-installed mmcv==2.1.0' in ran[-1] and not any('lite==' in c for c in ran)
    if '+cpu' not in torch:
        assert any(command.endswith('uninstall --yes torchvision') for command in ran)
        assert 'torchvision has no operators for this torch: mmcv is compiled' in capsys.readouterr().out


def test_a_refusal_of_the_stand_in_is_passed_on(set_up, modules):
    set_up.environment.call = lambda command, **variables: 1
    Path(set_up.environment.log).write_text('\n$ python -m mmacmix.mmcv_ext\nmmcv is not installed: do this.\n')
    with pytest.raises(modules.environment.SetupError, match=r'^mmcv is not installed: do this\.$'):
        set_up.install_stand_in()


@pytest.mark.parametrize('torch, installed', [('2.1.2+cpu', False), ('2.4.1+cpu', True)])
def test_triton_is_installed_beside_a_torch_that_it_works_with(set_up, torch, installed):
    set_up.answers['version("torch")'] = torch
    set_up.install_triton()
    assert any('triton==' in command for command in commands(set_up)) == installed


def test_timm_brings_no_torchvision(set_up):
    set_up.install_timm()
    (command,) = commands(set_up)
    assert '--no-deps timm==' in command and ' segmentation-models-pytorch==' in command


# -- compiling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('mmcv, refused', [('mmcv==2.1.0', True), ('onedl-mmcv==2.3.6', False)])
def test_python_3_13_cannot_compile_the_stock_mmcv(modules, monkeypatch, mmcv, refused):
    monkeypatch.setattr(modules.mmcv_build, 'output_or_none', lambda command: 'True')
    if refused:
        with pytest.raises(modules.environment.SetupError, match=r'mmcv==2.1.0 cannot be compiled on Python 3.13: '):
            modules.mmcv_build.check(mmcv, '2.13.0+cpu', BASE)
    else:
        modules.mmcv_build.check(mmcv, '2.13.0+cpu', BASE)


def test_missing_headers_are_named(modules, monkeypatch):
    monkeypatch.setattr(modules.mmcv_build, 'output_or_none', lambda command: 'False')
    with pytest.raises(
        modules.environment.SetupError, match=r'has no C headers \(Python.h\), .*apt install python3-dev'
    ):
        modules.mmcv_build.check('mmcv==2.1.0', '2.13.0+cpu', BASE)


@pytest.mark.parametrize('compiler, gigabytes, cores, jobs', [('c++', 64, 8, 8), ('c++', 8, 8, 3), ('nvcc', 8, 8, 2)])
def test_memory_and_cores_limit_the_compilers(modules, monkeypatch, compiler, gigabytes, cores, jobs):
    monkeypatch.setattr(modules.mmcv_build, 'memory', lambda: gigabytes * 1e9)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(range(cores)))
    assert modules.mmcv_build.jobs(compiler) == jobs
    monkeypatch.setattr(modules.mmcv_build, 'memory', lambda: 0.5e9)
    assert modules.mmcv_build.jobs(compiler) == 1


def test_the_available_memory_is_read(modules):
    with open('/proc/meminfo') as file:
        total = 1024 * int(file.readline().split()[1])
    assert 1e8 < modules.mmcv_build.memory() <= total


@pytest.fixture
def no_cuda(modules, monkeypatch):
    """A machine without a CUDA toolkit, whatever this one has."""
    monkeypatch.delenv('CUDA_HOME', raising=False)
    monkeypatch.delenv('TORCH_CUDA_ARCH_LIST', raising=False)
    real = modules.mmcv_build.nvcc_version
    monkeypatch.setattr(modules.mmcv_build, 'nvcc_version', lambda home: '/usr' not in home and real(home))


def toolkit(folder, version):
    """A folder with an nvcc that tells its version, headers and libraries."""
    for name in ('bin', 'include', 'lib'):
        (folder / name).mkdir(parents=True)
    (folder / 'lib' / 'libcudart.so.13').touch()
    interpreter(folder / 'bin', 'nvcc', f"'Cuda compilation tools, release {version}, V{version}.1'")
    return str(folder)


@pytest.mark.parametrize('devices, archs', [('0', '7.5+PTX'), ('2', None)])
def test_an_nvcc_of_the_version_of_torch_is_used(set_up, modules, no_cuda, tmp_path, monkeypatch, devices, archs):
    monkeypatch.setenv('CUDA_HOME', toolkit(tmp_path / 'cuda', '13.0'))
    set_up.answers['device_count'] = devices
    variables = modules.mmcv_build.cuda_variables(set_up.environment, '13.0', str(tmp_path))
    assert variables['FORCE_CUDA'] == '1' and variables['CUDA_HOME'] == str(tmp_path / 'cuda')
    assert variables.get('TORCH_CUDA_ARCH_LIST') == archs and commands(set_up) == []


def test_with_another_nvcc_the_compiler_comes_from_the_index(set_up, modules, no_cuda, tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_HOME', toolkit(tmp_path / 'older', '12.4'))
    toolkit(tmp_path / 'own' / 'cu13', '13.0')
    (tmp_path / 'base' / 'cu13' / 'include').mkdir(parents=True)
    set_up.answers['nvidia.__path__'] = f'{tmp_path}/own\n{tmp_path}/base'
    (tmp_path / 'temporary').mkdir()
    monkeypatch.delenv('CPATH', raising=False)
    variables = modules.mmcv_build.cuda_variables(set_up.environment, '13.0', str(tmp_path / 'temporary'))
    assert commands(set_up)[0].endswith('cuda-toolkit[nvcc,cccl]==13.0.*')
    assert variables['CUDA_HOME'] == f'{tmp_path}/own/cu13'
    assert variables['CPATH'] == f'{tmp_path}/own/cu13/include:{tmp_path}/base/cu13/include'
    link = tmp_path / 'temporary' / 'libcudart.so'
    assert variables['LIBRARY_PATH'].endswith(str(link.parent))
    assert link.resolve() == tmp_path / 'own' / 'cu13' / 'lib' / 'libcudart.so.13'


def test_a_compiler_from_the_index_that_does_not_run_is_named(set_up, modules, no_cuda):
    with pytest.raises(modules.environment.SetupError, match=r'compiler from the package index does not run: install'):
        modules.mmcv_build.cuda_toolkit(set_up.environment, '13.0')


def test_a_cuda_whose_compiler_is_on_no_index_is_named(set_up, modules, no_cuda, tmp_path):
    with pytest.raises(modules.environment.SetupError) as caught:
        modules.mmcv_build.cuda_variables(set_up.environment, '12.1', str(tmp_path))
    assert str(caught.value) == (
        'torch is built with CUDA 12.1, and no nvcc of that version was found: install the CUDA toolkit 12.1 and name '
        'its folder with CUDA_HOME.'
    )


@pytest.mark.parametrize('cuda', ['', '13.0'])
def test_the_build_follows_the_cuda_of_torch_not_the_visible_gpu(set_up, modules, no_cuda, tmp_path, monkeypatch, cuda):
    monkeypatch.setenv('CUDA_HOME', toolkit(tmp_path / 'cuda', '13.0'))
    set_up.answers.update({'torch.version.cuda or ""': cuda, 'device_count': '0'})
    modules.mmcv_build.build(set_up.environment, 'mmcv==2.1.0')
    _command, variables = set_up.commands[-1]
    assert variables.get('FORCE_CUDA') == ('1' if cuda else None)
    assert ('-include' in variables['CXXFLAGS']) == (not cuda) and int(variables['MAX_JOBS']) >= 1


def test_a_build_that_fails_with_precompiled_headers_is_tried_without(set_up, modules):
    set_up.answers['torch.version.cuda or ""'] = ''
    tried = []

    def call(command, **variables):
        if 'install' not in command:
            return 0
        tried.append(variables['CXXFLAGS'])
        return 1

    set_up.environment.call = call
    Path(set_up.environment.log).write_text('\n$ pip install\nRuntimeError: nothing works\n')
    with pytest.raises(modules.environment.SetupError, match=r'Building mmcv==2.1.0 failed \(RuntimeError: nothing'):
        modules.mmcv_build.build(set_up.environment, 'mmcv==2.1.0')
    assert len(tried) == 2 and '-include' in tried[0] and '-include' not in tried[1]


@pytest.mark.parametrize(
    'output, words',
    [
        (
            'error: subprocess-exited-with-error\nnms.cpp:7:10: fatal error: torch/types.h: No such file\n'
            'RuntimeError: Error compiling objects for extension',
            '(nms.cpp:7:10: fatal error: torch/types.h: No such file)',
        ),
        ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left', '[Errno 28] No space left'),
        (
            "WARNING: Retrying after connection broken by 'ReadTimeoutError'\nERROR: [Errno 28] No space left",
            '[Errno 28] No space left',
        ),
        (
            'pip._vendor.urllib3.exceptions.ReadTimeoutError: Read timed out.',
            'The connection to the package index broke',
        ),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found",
            'No package index could be reached',
        ),
    ],
)
def test_the_reason_of_a_failure_is_found_in_the_output(set_up, output, words):
    Path(set_up.environment.log).write_text(f'\n$ pip install\n{output}\n')
    assert words in str(set_up.environment.failure('pip'))


def test_the_users_settings_of_pip_do_not_reach_the_environment(checkout, modules, monkeypatch):
    monkeypatch.setenv('PIP_CONSTRAINT', '/of/a/container.txt')
    monkeypatch.setenv('PIP_USER', '1')
    environment = modules.environment.Environment(str(checkout))
    environment.call(['env'])
    assert 'PIP_CONSTRAINT=\n' in environment.last_output() and 'PIP_USER=0\n' in environment.last_output()


# -- the line about torch, its device and the operators ----------------------------------------------------------------


@pytest.fixture
def device(monkeypatch):
    spec = importlib.util.spec_from_file_location('device', ROOT / 'requirements' / 'device.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'has_nvidia_gpu', lambda: False)
    return module


def told(device, capsys):
    with pytest.raises(SystemExit) as caught:
        device.main()
    return caught.value.code, *capsys.readouterr()


def test_a_machine_without_gpu_is_told_one_line(device, capsys, monkeypatch):
    monkeypatch.setattr(device.torch.cuda, 'is_available', lambda: False)
    code, line, problem = told(device, capsys)
    assert code == 1 and problem == '' and line.count('\n') == 1
    assert line.startswith(f'torch {device.torch.__version__} on CPU; operators of mmcv: ')


@pytest.mark.parametrize(
    'cuda, warning, hidden, words',
    [
        (None, None, None, 'torch {} is a build without CUDA: it runs on CPUs'),
        (
            '13.0',
            'CUDA initialization: The NVIDIA driver on your system is too old (found version 12040). Please update it.',
            None,
            'The NVIDIA driver on your system is too old (found version 12040)',
        ),
        (
            '13.0',
            'CUDA initialization: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before '
            'calling NumCudaDevices() that might have already set an error? Error 802: system not yet initialized '
            '(Triggered internally at CUDAFunctions.cpp:109.)',
            None,
            '(Error 802: system not yet initialized)',
        ),
        ('13.0', None, None, 'no device is visible'),
        ('13.0', None, '-1', "CUDA_VISIBLE_DEVICES is '-1'"),
    ],
)
def test_a_gpu_that_torch_does_not_use_is_told(device, capsys, monkeypatch, cuda, warning, hidden, words):
    def is_available():
        if warning:
            device.warnings.warn(warning, stacklevel=2)
        return False

    monkeypatch.setattr(device, 'has_nvidia_gpu', lambda: True)
    monkeypatch.setattr(device.torch.cuda, 'is_available', is_available)
    monkeypatch.setattr(device.torch.version, 'cuda', cuda)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if hidden:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
    code, _line, problem = told(device, capsys)
    assert code == 1 and problem.count('\n') == 1 and words.format(device.torch.__version__) in problem


@pytest.mark.parametrize('problem', [None, 'It does not compute.'])
def test_a_gpu_is_named(device, capsys, monkeypatch, problem):
    monkeypatch.setattr(device.torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(device, 'try_gpu', lambda: ('NVIDIA H100', problem))
    code, line, said = told(device, capsys)
    assert code == bool(problem) and ' on NVIDIA H100; operators' in line
    assert said == (f'{problem} Cures: docs/install.md\n' if problem else '')


@pytest.mark.parametrize(
    'name, words', [(None, 'none'), ('_ext.py', 'torchvision and PyTorch'), ('_ext.so', 'compiled (')]
)
def test_the_origin_of_the_operators_is_told(device, monkeypatch, tmp_path, name, words):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    if name:
        (tmp_path / 'mmcv' / name).touch()
    for loaded in [each for each in sys.modules if each.partition('.')[0] == 'mmcv']:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(tmp_path)
    assert device.operators().startswith(words)
