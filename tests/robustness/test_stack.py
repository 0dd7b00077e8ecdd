"""Backbones run on each supported Python with mmcv-lite and no host; absent, old and broken hosts are reported."""

import shutil
import subprocess
import sys
import textwrap
from types import ModuleType

import pytest

from tests.conftest import tiny_config
from tests.tooling import ROOT, complaint, interpreter

REQUIREMENTS = ROOT / 'requirements'
PYTHONS = ('3.10', '3.11', '3.12', '3.13')
# Requirements of MMEngine and MMCV for networks and registries; their own lists are longer and include OpenCV's GUI.
PACKAGES = ['mmcv-lite==2.1.0', 'addict', 'yapf', 'platformdirs', 'termcolor', 'rich', 'pyyaml', 'packaging']
OTHERS = ['matplotlib', 'pillow', 'opencv-python-headless', 'jinja2']
CHECK = """
    import importlib.util, sys
    import torch
    import mmacmix
    from mmacmix.checkpoints import convert
    from mmengine.registry import MODELS
    from tests import golden

    torch.manual_seed(0)
    case = golden.load('op_k5_h2')
    a = case.arguments
    layer = MODELS.build(dict(
        type='ACmix', in_channels=a['in_channels'], out_channels=a['out_channels'], kernel_size=a['kernel_conv'],
        stride=a['stride'], num_heads=a['num_heads'], attention_kernel_size=a['kernel_att'])).double()
    layer.load_state_dict(convert(case.state_dict, 'acmix'))
    assert golden.relative_error(layer(case.x), case.results['y']) <= 1e-9

    arch = dict(depths=(1, 1, 1), embed_dims=(8, 16, 24), num_heads=(1, 2, 3))
    swin = dict(embed_dims=8, depths=(1, 1, 1), num_heads=(1, 2, 4))
    for cfg in (
        dict(type='ACmixResNet', depth=26, base_channels=8, out_indices=(0, 1, 2)),
        dict(type='ACmixSwinTransformer', arch=swin, out_indices=(0, 1, 2)),
        dict(type='ACmixPyramidVisionTransformer', arch=arch, out_indices=(0, 1, 2)),
        dict(type='ACmixSAN', depth=10, base_channels=32, out_indices=(0, 1, 2), norm_eval=False),
    ):
        network = MODELS.build(cfg)
        network.init_weights()
        network.train()
        maps = network(torch.rand(2, 3, 61, 75))
        sum(each.square().mean() for each in maps).backward()
        assert len(maps) == 3
        assert all(each.isfinite().all() for each in maps)
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)

    assert importlib.util.find_spec('mmcv._ext') is None
    assert all(importlib.util.find_spec(name) is None for name in ('mmdet', 'mmseg', 'mmpretrain'))
    print('built and run on Python', '.'.join(map(str, sys.version_info[:2])))
"""


@pytest.mark.slow
@pytest.mark.parametrize('version', PYTHONS)
def test_backbones_run_with_mmcv_lite_alone(version, tmp_path):
    if (base := interpreter(version)) is None:
        pytest.skip(f'this machine has no Python {version}; the version that runs the tests is never skipped')
    subprocess.run([base, '-m', 'venv', '--without-pip', tmp_path / 'venv'], check=True)
    python = tmp_path / 'venv' / 'bin' / 'python'
    locked = (REQUIREMENTS / 'lock-openmmlab.txt').read_text().splitlines()
    constraints = tmp_path / 'constraints.txt'
    # As in the set-up: torch requires its own version of setuptools.
    constraints.write_text('\n'.join(line for line in locked if not line.startswith(('setuptools', 'torch', 'triton'))))
    pip = [sys.executable, '-m', 'pip', '--python', python, '--disable-pip-version-check', '--quiet']
    pip += ['install', '--no-compile', '-c', constraints]
    torch = (REQUIREMENTS / 'torch.txt').read_text().split()
    for packages in ([*torch, 'numpy', *PACKAGES[1:], *OTHERS], ['--no-deps', 'mmengine', PACKAGES[0]]):
        done = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [python, '-c', textwrap.dedent(CHECK)], cwd=ROOT, env={}, capture_output=True, text=True, check=False
    )
    shutil.rmtree(tmp_path / 'venv')
    assert f'built and run on Python {version}' in done.stdout, done.stderr


def broken(name):
    raise AssertionError('MMCV==2.2.0 is used but incompatible')


@pytest.mark.parametrize(
    'host, problem',
    [
        (None, '(import of mmdet halted; None in sys.modules): run `make setup`'),
        (dict(__version__='2.28.0'), '3.0.0 or newer, found 2.28.0'),
        (dict(__getattr__=broken), '(MMCV==2.2.0 is used but incompatible): run `make setup`'),
    ],
    ids=['absent', 'too old', 'broken'],
)
@pytest.mark.parametrize('tool', ['train.py', 'test.py', 'get_flops.py'])
def test_an_unusable_host_is_reported_in_one_sentence(tool, host, problem, tmp_path, monkeypatch, capsys):
    config = tmp_path / 'tiny.py'
    tiny_config('mmdet').dump(config)  # without bases, which MMEngine would read from the host
    stub = host and ModuleType('mmdet')
    if stub:
        vars(stub).update(host)
    monkeypatch.setitem(sys.modules, 'mmdet', stub)
    arguments = [config]
    if tool != 'get_flops.py':
        arguments += ['--work-dir', tmp_path]
    if tool == 'test.py':
        arguments.insert(1, 'any.pth')
    message = complaint(tool, arguments, capsys)
    assert message.startswith(f'mmacmix needs mmdet {problem}') and '\n' not in message
