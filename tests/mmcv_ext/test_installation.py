"""Tests ``python -m mmacmix.mmcv_ext`` on folders that look like an installed mmcv."""

import importlib
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import mmacmix
from mmacmix.errors import LibraryError, UserError
from mmacmix.mmcv_ext import __main__ as command


@pytest.fixture
def mmcv(tmp_path, monkeypatch):
    """The folder of an mmcv without operators, which the command finds, beside a torchvision that works."""
    folder = tmp_path / 'mmcv'
    folder.mkdir()
    (folder / '__init__.py').touch()
    vision = ModuleType('torchvision')
    vision.__version__, vision.ops = '0.99.0', SimpleNamespace(nms=lambda boxes, scores, iou_threshold: scores)
    monkeypatch.setitem(sys.modules, 'torchvision', vision)
    monkeypatch.delitem(sys.modules, 'mmcv')
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder


def test_operators_are_installed_and_removed(mmcv, capsys):
    for _ in range(2):  # also over those of an earlier version
        command.main([])
        assert (mmcv / '_ext.py').read_bytes() == command.SOURCE.read_bytes()
        (mmcv / '_ext.py').write_text('earlier')
    assert f'torchvision 0.99.0 and PyTorch: {mmcv / "_ext.py"}.\n' in capsys.readouterr().out
    command.main(['--remove'])
    command.main(['--remove'])
    assert not (mmcv / '_ext.py').exists()
    removed, nothing = capsys.readouterr().out.splitlines()
    assert removed.startswith('Removed') and nothing.startswith('There are no operators to remove')


def test_compiled_operators_stay(mmcv, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)  # not needed then
    (mmcv / f'_ext{EXTENSION_SUFFIXES[0]}').touch()
    command.main([])
    assert not (mmcv / '_ext.py').exists()
    assert capsys.readouterr().out == f'The mmcv in {mmcv} has compiled operators, which stay in use.\n'


def test_operators_compiled_for_another_python_do_not_count(mmcv):
    (mmcv / '_ext.cpython-27-other.so').touch()
    command.main([])
    assert (mmcv / '_ext.py').exists()


def test_compiled_operators_take_precedence(mmcv):
    command.main([])
    (mmcv / f'_ext{EXTENSION_SUFFIXES[0]}').touch()
    spec = importlib.machinery.PathFinder.find_spec('mmcv._ext', [str(mmcv)])
    assert isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)


def test_without_mmcv_nothing_is_written(tmp_path, monkeypatch):
    for spec in (None, SimpleNamespace(origin=None)):  # missing, or a folder that an uninstallation left
        monkeypatch.setattr(command, 'find_spec', lambda name, spec=spec: spec)
        with pytest.raises(SystemExit, match=r'^mmcv is not installed: run `pip install mmcv-lite==2.1.0`'):
            command.main([])


def test_without_torchvision_nothing_is_written(mmcv, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    with pytest.raises(
        SystemExit, match=r'^torchvision is not installed: install the one that belongs to your torch\.$'
    ):
        command.main([])
    assert not (mmcv / '_ext.py').exists()


def test_torchvision_whose_operators_do_not_load_is_refused(mmcv, monkeypatch):
    monkeypatch.delitem(sys.modules, 'torchvision')
    (mmcv.parent / 'torchvision.py').write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    with pytest.raises(
        LibraryError, match=r'do not load .*\(operator torchvision::nms does not exist\).*MMCV=compiled'
    ):
        command.install(mmcv)
    assert not (mmcv / '_ext.py').exists()


def test_a_folder_that_cannot_be_written_gives_a_sentence(mmcv):
    (mmcv / '_ext.py').mkdir()
    with pytest.raises(UserError, match=r'^The operators cannot be written to .*_ext\.py: Is a directory\.$'):
        command.install(mmcv)


def test_importing_the_package_neither_imports_torchvision_nor_installs(tmp_path):
    (tmp_path / 'torchvision.py').write_text("raise SystemExit('torchvision was imported')")
    mmcv = Path(command.mmcv_folder())
    before = sorted(mmcv.iterdir())
    code = 'import mmacmix, mmacmix.mmcv_ext.operators'
    root = Path(mmacmix.__file__).parents[1]
    subprocess.run([sys.executable, '-c', code], check=True, env={'PYTHONPATH': f'{tmp_path}:{root}'})
    assert sorted(mmcv.iterdir()) == before
