"""What the README says can be done, done."""

import re
from itertools import product
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope

from mmacmix.backbones import ACmixResNet, ACmixSwinTransformer
from mmacmix.layers import ACmix

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
SNIPPETS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
CONFIGS = [snippet for snippet in SNIPPETS if 'custom_imports' in snippet]
MODULES = [snippet for snippet in SNIPPETS if 'custom_imports' not in snippet]


def test_there_are_snippets_of_both_kinds():
    assert len(CONFIGS) >= 2 and MODULES


@pytest.mark.parametrize('snippet', MODULES, ids=range(len(MODULES)))
def test_a_snippet_that_calls_modules_runs(snippet):
    exec(snippet, {})


@pytest.mark.parametrize('snippet', CONFIGS, ids=range(len(CONFIGS)))
def test_a_snippet_of_a_config_puts_acmix_into_a_host_detector(snippet, tmp_path):
    path = tmp_path / 'own.py'
    path.write_text("_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\n" + snippet)
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None  # no download
    init_default_scope('mmdet')
    from mmdet.registry import MODELS

    detector: BaseModule = MODELS.build(cfg.model)
    assert any(isinstance(module, ACmix) for module in detector.backbone.modules())


def test_the_table_of_backbones_is_right():
    rows = re.findall(r'`depth=(\d+)` \| ([\d.]+) \|', README)
    assert {int(depth) for depth, _ in rows} == set(ACmixResNet.arch_settings)
    for depth, millions in rows:
        parameters = sum(parameter.numel() for parameter in ACmixResNet(int(depth)).parameters())
        assert f'{parameters / 1e6:.2f}' == millions
    rows = re.findall(r"`arch='(\w+)'` \| ([\d.]+) \|", README)
    assert {arch for arch, _ in rows} == set(ACmixSwinTransformer.arch_settings)
    for arch, millions in rows:
        parameters = sum(parameter.numel() for parameter in ACmixSwinTransformer(arch).parameters())
        assert f'{parameters / 1e6:.2f}' == millions


def test_files_it_names_are_there():
    names = set(re.findall(r'(?:configs|tools|docs)/[\w/.{},-]+\.(?:py|sh|png|md)', README))
    assert len(names) > 5
    for name in names:
        choices = [part.split(',') for part in re.findall(r'{(.*?)}', name)]
        for choice in product(*choices):
            parts = iter(choice)
            path = re.sub(r'{.*?}', lambda _, parts=parts: next(parts), name)
            assert (ROOT / path).exists(), path
