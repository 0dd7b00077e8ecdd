"""What the README says can be done, done."""

import os
import re
from itertools import product
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope

from mmacmix import backbones
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
    name, listed = '', []
    for new_name, argument, value, millions in re.findall(
        r"^\| (?:`(\w+)`)? ?\| `(\w+)='?(\w+)'?` \| ([\d.]+) \|", README, re.MULTILINE
    ):
        name = new_name or name
        listed.append((name, value))
        with torch.device('meta'):
            backbone = getattr(backbones, name)(**{argument: int(value) if argument == 'depth' else value})
        assert f'{sum(parameter.numel() for parameter in backbone.parameters()) / 1e6:.2f}' == millions
    assert len(listed) == len(set(listed))
    assert set(listed) == {
        (name, str(arch)) for name in backbones.__all__ for arch in getattr(backbones, name).arch_settings
    }


def test_files_it_names_are_there():
    names = set(re.findall(r'(?:configs|tools|docs)/[\w/.{},-]+\.(?:py|sh|png|md)', README))
    assert len(names) > 5
    for name in names:
        choices = [part.split(',') for part in re.findall(r'{(.*?)}', name)]
        for choice in product(*choices):
            parts = iter(choice)
            path = re.sub(r'{.*?}', lambda _, parts=parts: next(parts), name)
            assert (ROOT / path).exists(), path


def test_every_tool_starts_by_its_name():
    tools = sorted((ROOT / 'tools').iterdir())
    assert [tool.name for tool in tools if tool.suffix in ('.py', '.sh') and not os.access(tool, os.X_OK)] == []
