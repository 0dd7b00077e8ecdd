"""Guards that the locks pin every package of a lane, and that the environment of the tests matches its lock."""

from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).parents[1] / 'requirements'
LANES = ('openmmlab', 'onedl')
PYTHONS = ('3.10.0', '3.11.9', '3.12.9', '3.13.0')


def read(name, python=None):
    """``{name: version}`` of a file's pins for a version of Python, by default the running one."""
    environment = {'python_full_version': python, 'python_version': python.rpartition('.')[0]} if python else None
    lines = (REQUIREMENTS / f'{name}.txt').read_text().splitlines()
    pins = [Requirement(line.partition(' #')[0]) for line in lines if line.strip() and not line.startswith('#')]
    pins = [pin for pin in pins if not pin.marker or pin.marker.evaluate(environment)]
    found = {canonicalize_name(pin.name): str(pin.specifier).removeprefix('==') for pin in pins}
    assert len(found) == len(pins), f'{name} names a package twice'
    return found


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements_of(name, extra=''):
    """The requirements of an installed package in this environment, with one of its extras."""
    found = map(Requirement, requires(name) or [])
    return [each for each in found if not each.marker or each.marker.evaluate({'extra': extra})]


LANE = 'onedl' if installed('onedl-mmcv') else 'openmmlab'


@pytest.mark.parametrize('python', PYTHONS)
@pytest.mark.parametrize('lane', LANES)
def test_requirements_are_locked(lane, python):
    lock = read(f'lock-{lane}', python)
    files = [path.stem for path in REQUIREMENTS.glob('*.txt')]
    shared = [name for name in files if not name.startswith('lock-') and name not in LANES]
    assert len(shared) >= 5
    for name in [*shared, lane]:
        pins = read(name, python)
        assert pins == {package: lock.get(package) for package in pins}, f'{name}.txt: run `make lock`'


def exempt_packages():
    """Packages whose versions depend on torch if it is not the locked version or is a GPU build."""
    names = {canonicalize_name(each.name) for each in requirements_of('torch')}
    if version('torch').partition('+')[0] == read('torch')['torch']:
        return names & {'triton'}
    return names | {'torch', 'torchvision', 'triton'}


def test_the_environment_holds_the_locked_versions():
    lock = read(f'lock-{LANE}')
    found = {name: (installed(name) or 'missing').partition('+')[0] for name in lock}
    found['torchvision'] = lock['torchvision']  # in a separate folder beside CPU builds of torch
    if 'mmcv' in lock and not installed('mmcv'):
        found['mmcv'] = installed('mmcv-lite')  # beside CUDA builds of torch
    differing = {name for name in lock if found[name] != lock[name]} - exempt_packages()
    assert not differing, {name: (found[name], lock[name]) for name in differing}


def test_requirements_of_locked_packages_are_locked():
    lock = read(f'lock-{LANE}')
    packages = [name for name in lock if installed(name)]
    if torch.version.cuda or torch.version.hip:
        packages.remove('torch')  # requires GPU packages, which are not in the locks
    needed = [each for name in packages for each in requirements_of(name)] + requirements_of('mmacmix', LANE)
    needed += [more for each in needed for extra in each.extras for more in requirements_of(each.name, extra)]
    assert len(needed) > len(packages)
    assert {canonicalize_name(each.name) for each in needed} - set(lock) == set()
