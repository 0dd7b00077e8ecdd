"""What the README and the pages of docs/ say can be done, done."""

import doctest
import json
import os
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmacmix import backbones
from mmacmix.backbones import acmix_resnet
from mmacmix.checkpoints import SOURCES
from mmacmix.datasets import write_shapes
from mmacmix.layers import ACmix
from mmacmix.version import __version__
from tests.tooling import load

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
TUTORIAL = ROOT / 'demo' / 'mmacmix_tutorial.ipynb'  # run by `make notebook`
PAGES = [ROOT / 'README.md', *sorted(DOCS.glob('*.md'))]
POLICIES = [ROOT / name for name in ('CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md')]
SNIPPETS = [
    (page.stem, snippet)
    for page in PAGES
    for snippet in re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
]
ABOUT_NETWORKS = [item for item in SNIPPETS if item[0] in ('README', 'own_network')]
CONFIGS = [item for item in ABOUT_NETWORKS if 'custom_imports' in item[1]]
MODULES = [item for item in ABOUT_NETWORKS if 'custom_imports' not in item[1]]
ABOUT_SEGMENTORS = [item for item in SNIPPETS if item[0] in ('weights', 'ade20k') and 'def ' not in item[1]]


def test_there_are_snippets_of_all_kinds():
    assert len(CONFIGS) >= 3 and len(MODULES) >= 2 and len(ABOUT_SEGMENTORS) >= 2


@pytest.mark.parametrize('page, snippet', MODULES, ids=range(len(MODULES)))
def test_a_snippet_that_calls_modules_runs(page, snippet):
    exec(snippet, {})


@pytest.mark.parametrize('page, snippet', CONFIGS, ids=range(len(CONFIGS)))
def test_a_snippet_of_a_config_puts_acmix_into_a_host_detector(page, snippet, tmp_path):
    path = tmp_path / 'own.py'
    path.write_text("_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\n" + snippet)
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None  # no download
    init_default_scope('mmdet')

    detector: BaseModule = MODELS.build(cfg.model)
    assert any(isinstance(module, ACmix) for module in detector.backbone.modules())


def test_a_plain_swin_is_loaded(tmp_path):
    from mmdet.models.backbones import SwinTransformer

    (snippet,) = [snippet for _, snippet in SNIPPETS if 'def plain_swin' in snippet]
    host = SwinTransformer()
    torch.save(dict(model=host.state_dict()), tmp_path / 'swin.pth')
    names = {}
    exec(snippet, names)
    network = names['plain_swin'](tmp_path / 'swin.pth')
    assert torch.equal(network.stages[0][0].attn.qkv.weight, host.stages[0].blocks[0].attn.w_msa.qkv.weight)


@pytest.mark.parametrize('page, snippet', ABOUT_SEGMENTORS)
def test_a_snippet_of_a_config_is_one(tmp_path, page, snippet):
    base = '' if '_base_' in snippet else "_base_ = 'configs/upernet_acmix.py'\n"
    path = tmp_path / 'own.py'
    path.write_text((base + snippet).replace("'configs/", f"'{ROOT}/configs/"))
    cfg = Config.fromfile(path)
    assert cfg.model.backbone.type == 'ACmixSwinTransformer'
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'


def test_own_maps_are_read(tmp_path):
    from mmseg.registry import DATASETS

    (snippet,) = [snippet for page, snippet in SNIPPETS if page == 'ade20k' and 'data/mine' in snippet]
    write_shapes(tmp_path / 'shapes', train=2, val=2)
    for theirs, ours in (('images', 'images'), ('semantic', 'annotations')):
        for split, name in (('train', 'training'), ('val', 'validation')):
            folder = tmp_path / 'mine' / ours / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / 'shapes' / theirs / split).rename(folder)
    path = tmp_path / 'own.py'
    snippet = snippet.replace("'configs/", f"'{ROOT}/configs/").replace('data/mine', str(tmp_path / 'mine'))
    path.write_text(snippet.replace("img_suffix='.jpg'", "img_suffix='.png'"))
    cfg = Config.fromfile(path)
    init_default_scope('mmseg')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == 2 and dataset.metainfo['classes'] == ('road', 'field')
        assert dataset[0]['inputs'].shape[0] == 3


def test_own_objects_are_read_and_trained_on(tmp_path):
    (snippet,) = [snippet for page, snippet in SNIPPETS if page == 'own_data']
    write_shapes(tmp_path / 'shapes', train=4, val=4)
    mine = tmp_path / 'mine'
    mine.mkdir()
    for split in ('train', 'val'):
        (tmp_path / 'shapes' / 'annotations' / f'instances_{split}.json').rename(mine / f'{split}.json')
        (tmp_path / 'shapes' / 'images' / split).rename(mine / split)
    path = tmp_path / 'own.py'
    snippet = snippet.replace("'configs/", f"'{ROOT}/configs/").replace('data/mine', str(mine))
    path.write_text(snippet.replace("'cup', 'spoon'", "'striped disc', 'plain square'"))
    cfg = Config.fromfile(path)
    init_default_scope('mmdet')
    from mmdet.registry import DATASETS, METRICS

    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset = DATASETS.build(loader.dataset)
        labels = {int(label) for item in dataset for label in item['data_samples'].gt_instances.labels}
        assert dataset.metainfo['classes'] == ('striped disc', 'plain square') and labels == {0, 1}
    METRICS.build(cfg.val_evaluator)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    assert model.roi_head.bbox_head.num_classes == model.roi_head.mask_head.num_classes == 2


def test_the_table_of_backbones_is_right():
    name, listed = '', []
    for new_name, argument, value, millions in re.findall(
        r"^\| (?:`(\w+)`)? ?\| `(\w+)='?(\w+)'?` \| ([\d.]+) \|", (DOCS / 'model_zoo.md').read_text(), re.MULTILINE
    ):
        name = new_name or name
        listed.append((name, value))
        with torch.device('meta'):
            backbone = getattr(backbones, name)(**{argument: int(value) if argument == 'depth' else value})
        assert f'{sum(parameter.numel() for parameter in backbone.parameters()) / 1e6:.2f}' == millions
    assert len(listed) == len(set(listed))
    assert set(listed) == {
        (name, str(arch))
        for name in backbones.__all__
        for arch in getattr(backbones, name).arch_settings
        if name in MODELS.module_dict  # ResNet is the base of some
    }


def test_the_sources_of_weights_are_all_there():
    table = (ROOT / 'docs' / 'weights.md').read_text().split('## Convert')[0]
    assert set(re.findall(r'^\| `([\w-]+)` \|', table, re.MULTILINE)) == set(SOURCES)


@pytest.mark.parametrize('page', [*PAGES, *POLICIES, TUTORIAL], ids=lambda page: page.stem)
def test_files_it_names_are_there(page):
    text = page.read_text()
    for name in re.findall(r'\b(?:configs|tools|docs|tests)/[\w/.{},-]+\.(?:py|sh|md)\b', text):
        choices = [part.split(',') for part in re.findall(r'{(.*?)}', name)]
        for choice in product(*choices):
            parts = iter(choice)
            path = re.sub(r'{.*?}', lambda _, parts=parts: next(parts), name)
            assert (ROOT / path).exists(), path
    for name in re.findall(r'\]\(([\w/.-]+\.(?:md|png|jpg))(?:#[\w-]+)?\)', text):
        assert (page.parent / name).exists(), name


def test_the_tutorial_shows_what_it_computed():
    cells = [cell for cell in json.loads(TUTORIAL.read_text())['cells'] if cell['cell_type'] == 'code']
    assert [cell['execution_count'] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell['outputs'] if output['output_type'] == 'error']


def test_every_tool_starts_by_its_name():
    tools = sorted((ROOT / 'tools').iterdir())
    assert [tool.name for tool in tools if tool.suffix in ('.py', '.sh') and not os.access(tool, os.X_OK)] == []


def test_every_tool_and_folder_of_configs_has_a_page():
    text = '\n'.join(page.read_text() for page in PAGES)
    folders = [path.name for path in (ROOT / 'configs').iterdir() if path.is_dir() and path.name != '_base_']
    tools = [path.name for path in (ROOT / 'tools').iterdir() if path.suffix in ('.py', '.sh')]
    assert [name for name in folders if f'configs/{name}' not in text] == []
    assert [name for name in tools if f'tools/{name}' not in text] == []


def test_the_version_is_semantic_and_heads_the_changelog():
    assert re.fullmatch(r'(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}', __version__)
    first, *others = re.findall(r'^## (.*)$', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert re.fullmatch(rf'{re.escape(__version__)} - (Unreleased|\d{{4}}-\d\d-\d\d)', first)
    assert all(re.fullmatch(r'\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d', section) for section in others)


def test_examples_in_docstrings_run():
    results = [doctest.testmod(module) for module in (acmix_resnet,)]
    assert all(result.attempted and not result.failed for result in results)


def test_the_figures_are_those_that_their_script_draws(tmp_path, monkeypatch):
    figures = load('../docs/figures.py')
    monkeypatch.setattr(figures, 'IMAGES', tmp_path)
    figures.main()
    drawn = {path.name: np.array(Image.open(path).convert('RGB')) for path in tmp_path.iterdir()}
    kept = {path.name: np.array(Image.open(path).convert('RGB')) for path in (DOCS / 'images').glob('operator_*.png')}
    assert drawn.keys() == kept.keys()
    for name, picture in drawn.items():
        assert abs(np.subtract(picture.shape, kept[name].shape)).max() <= 4  # fonts differ between systems
    assert all(f'images/{name}' in (DOCS / 'four_ways.md').read_text() for name in kept)
