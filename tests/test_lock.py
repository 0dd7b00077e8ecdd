"""The locks name every package of a lane, and the environment that the tests run in holds what its lock names."""

from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).parents[1] / 'requirements'
LANES = ('openmmlab', 'onedl')
PYTHONS = ('3.10.0', '3.11.9', '3.12.9')


def read(name, python=None):
    """``{name: version}`` of what a file pins for a version of Python, or for the running one."""
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


def asked_for(name, extra=''):
    """What an installed package requires here, with an extra of it."""
    found = map(Requirement, requires(name) or [])
    return [each for each in found if not each.marker or each.marker.evaluate({'extra': extra})]


LANE = 'onedl' if installed('onedl-mmcv') else 'openmmlab'


@pytest.mark.parametrize('python', PYTHONS)
@pytest.mark.parametrize('lane', LANES)
def test_what_is_asked_for_is_locked(lane, python):
    lock = read(f'lock-{lane}', python)
    files = [path.stem for path in REQUIREMENTS.glob('*.txt')]
    others = [name for name in files if not name.startswith('lock-') and name not in LANES]
    assert len(others) >= 5
    for name in [*others, lane]:
        pins = read(name, python)
        assert pins == {package: lock.get(package) for package in pins}, f'{name}.txt: run `make lock`'


def of_another_torch():
    """Packages that the set-up leaves to a torch which is not the locked one, or is a build for GPUs."""
    names = {canonicalize_name(each.name) for each in asked_for('torch')}
    if version('torch').partition('+')[0] == read('torch')['torch']:
        return names & {'triton'}
    return names | {'torch', 'torchvision', 'triton'}


def test_the_environment_holds_the_locked_versions():
    lock = read(f'lock-{LANE}')
    found = {name: (installed(name) or 'nothing').partition('+')[0] for name in lock}
    found['torchvision'] = lock['torchvision']  # in a folder of its own
    differing = {name for name in lock if found[name] != lock[name]} - of_another_torch()
    assert not differing, {name: (found[name], lock[name]) for name in differing}


def test_what_locked_packages_need_is_locked():
    lock = read(f'lock-{LANE}')
    packages = [name for name in lock if installed(name)]
    if torch.version.cuda or torch.version.hip:
        packages.remove('torch')  # brings the packages of its GPU, which no lock holds
    needed = [each for name in packages for each in asked_for(name)] + asked_for('mmacmix', LANE)
    needed += [more for each in needed for extra in each.extras for more in asked_for(each.name, extra)]
    assert len(needed) > len(packages)
    assert {canonicalize_name(each.name) for each in needed} - set(lock) == set()
