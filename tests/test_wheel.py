"""Guards the content of the wheel and source archive, and that the installed wheel works without a checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the checkout that builds may write to, with bytecode caches."""
    folder = tmp_path_factory.mktemp('checkout') / 'mmacmix'
    ignored = shutil.ignore_patterns('.*', '__pycache__', 'data', 'work_dirs', 'build', 'dist', '*.egg-info')
    shutil.copytree(ROOT, folder, ignore=ignored)
    for name in ('configs', 'tools', 'mmacmix'):
        (folder / name / '__pycache__').mkdir()
        (folder / name / '__pycache__' / 'x.cpython-311.pyc').touch()
    return folder


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    return built_wheel(source, tmp_path_factory.mktemp('wheel'))


def built_wheel(source, folder):
    run(*PIP, 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w', folder, source)
    (wheel,) = folder.glob('*.whl')
    return wheel


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    """The interpreter of an environment with the wheel and the host libraries."""
    folder = tmp_path_factory.mktemp('environment')
    run(sys.executable, '-m', 'venv', '--without-pip', folder)
    python = folder / 'bin' / 'python'
    site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])').strip())
    # Path files inside the listed folders, such as that of the editable install, are not read.
    libraries = [path for path in sys.path if Path(path).name in ('site-packages', 'dist-packages')]
    (site / 'libraries.pth').write_text('\n'.join([sysconfig.get_paths()['purelib'], *libraries, '']))
    run(*PIP, '--python', python, 'install', '--no-deps', '--no-index', wheel)
    return python


def run(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(source, *parts):
    found = [path for part in parts for path in [source / part, *(source / part).rglob('*')]]
    return {str(path.relative_to(source)) for path in found if path.is_file() and path.suffix != '.pyc'}


def packed(wheel):
    """``{name: (checksum, mode)}`` for the files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: (info.CRC, info.external_attr >> 16) for info in archive.infolist()}


def test_the_wheel_contains_only_the_package(source, wheel):
    recipes = files_of(source, 'configs', 'tools', 'model-index.yml')
    expected = files_of(source, 'mmacmix') | {f'mmacmix/.mim/{name}' for name in recipes}
    metadata = {name for name in packed(wheel) if name.startswith('mmacmix-')}
    assert set(packed(wheel)) - metadata == expected
    # The folder of the licence depends on the version of setuptools.
    kinds = sorted(Path(name).name for name in metadata if '.dist-info/' in name)
    assert len(metadata) == 5 and kinds == ['LICENSE', 'METADATA', 'RECORD', 'WHEEL', 'top_level.txt']


@pytest.mark.parametrize('version', ['2.1.2+cu121', '2.15.0'])
def test_the_wheel_changes_no_torch(wheel, version, tmp_path, monkeypatch):
    run(sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv')
    (site,) = (tmp_path / 'venv').glob('lib/python*/site-packages')
    for name, number in dict(torch=version, numpy='1.26.4', jinja2='3.1.6').items():
        metadata = site / f'{name}-{number}.dist-info' / 'METADATA'
        metadata.parent.mkdir()
        metadata.write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n')
    pip = [*PIP, '--python', tmp_path / 'venv' / 'bin' / 'python', 'install', '--no-index', '--dry-run', '--quiet']
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)  # which may name folders with other builds of torch
    monkeypatch.delenv('PIP_FIND_LINKS', raising=False)
    report = json.loads(run(*pip, '--report', '-', wheel))
    assert [each['metadata']['name'] for each in report['install']] == ['mmacmix']


@pytest.mark.parametrize('lane', ['openmmlab', 'onedl'])
def test_the_extras_that_compile_mmcv_exclude_a_torch_that_needs_cxx20(wheel, lane):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        found = map(Requirement, re.findall('^Requires-Dist: (.*)$', archive.read(name).decode(), re.MULTILINE))
    torch = [
        each for each in found if each.name == 'torch' and (not each.marker or each.marker.evaluate({'extra': lane}))
    ]
    assert all('2.13.0' in each.specifier for each in torch)
    assert not all('2.14.0' in each.specifier for each in torch)


def test_the_source_archive_contains_its_sources_and_builds_an_equal_wheel(source, wheel, tmp_path):
    files = files_of(source, 'mmacmix', 'configs', 'tools', 'requirements', 'model-index.yml')
    build = 'from setuptools import build_meta; build_meta.build_sdist("dist")'
    run(sys.executable, '-c', build, cwd=source)
    (archive,) = (source / 'dist').glob('*.tar.gz')
    shutil.unpack_archive(archive, tmp_path)
    (unpacked,) = tmp_path.iterdir()
    generated = {name for name in files_of(unpacked, '.') if name.startswith('mmacmix.egg-info/')}
    assert files_of(unpacked, '.') - generated == files | {
        *('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'CHANGELOG.md', 'CITATION.cff'),
        *('README.md', 'README_zh-CN.md'),
        *('setup.cfg', 'PKG-INFO'),  # generated
    }
    (tmp_path / 'again').mkdir()
    assert packed(built_wheel(unpacked, tmp_path / 'again')) == packed(wheel)


def mim_of(python):
    return next(python.parents[1].glob('lib/python*/site-packages/mmacmix/.mim'))


def test_all_configs_and_tools_are_installed(python):
    mim = mim_of(python)
    for folder in ('configs', 'tools'):
        ours, theirs = (
            {
                str(path.relative_to(root)): path.read_bytes()
                for path in (root / folder).rglob('*.*')
                if 'pycache' not in str(path)
            }
            for root in (ROOT, mim)
        )
        assert theirs == ours and len(ours) > 5
    assert yaml.safe_load((mim / 'model-index.yml').read_text())['Import']
    assert (mim.parent / 'reporting' / 'report.html.j2').exists()
    assert all(os.access(tool, os.X_OK) for tool in (mim / 'tools').glob('*.sh'))


def test_other_configs_can_inherit_from_installed_ones(python, tmp_path):
    (tmp_path / 'own.py').write_text(
        "_base_ = 'mmacmix::mask_rcnn/mask-rcnn_acmix-r26_fpn_1x_coco.py'\nmodel = dict(backbone=dict(depth=38))\n"
    )
    show = (
        'import mmacmix\nfrom mmengine.config import Config\nfrom mmdet.utils import register_all_modules\n'
        'from mmdet.registry import MODELS\nregister_all_modules()\n'
        "print(type(MODELS.build(Config.fromfile('own.py').model.backbone)).__module__, mmacmix.__file__)"
    )
    module, file = run(python, '-c', show, cwd=tmp_path).splitlines()[-1].split()
    assert module == 'mmacmix.backbones.acmix_resnet' and Path(file).is_relative_to(python.parents[1])


def test_an_inherited_config_resolves_names_in_the_host_registry(python, tmp_path):
    (tmp_path / 'own.py').write_text("_base_ = 'mmacmix::upernet/upernet_acmix-swin-t_8xb2-160k_ade20k-512x512.py'\n")
    show = (
        'from argparse import Namespace\nfrom mmengine.dataset import Compose\n'
        'from mmengine.registry import init_default_scope\nfrom mmacmix.cli import load_config\n'
        'from mmacmix.inference import build_model\n'
        "cfg = load_config(Namespace(config='own.py', cfg_options=None))\ninit_default_scope('mmseg')\n"
        'steps = Compose(cfg.train_dataloader.dataset.pipeline).transforms\n'
        'print(*(type(each).__module__ for each in [*steps, build_model(cfg).backbone]))'
    )
    *steps, backbone = run(python, '-c', show, cwd=tmp_path).splitlines()[-1].split()
    assert any(step.startswith('mmseg.') for step in steps)
    assert backbone == 'mmacmix.backbones.acmix_swin'


def test_the_inferencers_list_all_models(python, tmp_path):
    show = "import mmacmix\nfrom mmdet.apis import DetInferencer\nprint(*DetInferencer.list_models('mmacmix'), sep='|')"
    listed = run(python, '-c', show, cwd=tmp_path).strip().splitlines()[-1].split('|')
    families = {path.parent for path in ROOT.glob('configs/*/metafile.yml')}
    assert sorted(listed) == sorted(path.stem for family in families for path in family.glob('*.py'))


def test_the_tools_run_from_the_package(python, tmp_path):
    mim = mim_of(python)
    printed = run(
        python, mim / 'tools' / 'get_flops.py', mim / 'configs' / 'maskrcnn_acmix.py', '--shape', 64, 64, cwd=tmp_path
    )
    assert 'projections' in printed
