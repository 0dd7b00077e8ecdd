"""Snippets, tables, links and figures of the documentation agree with the code."""

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
from tests.hosts import find_torchvision
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
ABOUT_NETWORKS = [item for item in SNIPPETS if item[0] in ('README', 'own_network', 'other_frameworks')]
CONFIGS = [item for item in ABOUT_NETWORKS if 'custom_imports' in item[1]]
MODULES = [item for item in ABOUT_NETWORKS if 'custom_imports' not in item[1]]
ABOUT_SEGMENTORS = [item for item in SNIPPETS if item[0] in ('weights', 'ade20k') and 'def ' not in item[1]]


def test_snippets_of_each_kind_are_found():
    assert len(CONFIGS) >= 7 and len(MODULES) >= 5 and len(ABOUT_SEGMENTORS) >= 2


@pytest.mark.parametrize('page, snippet', MODULES, ids=range(len(MODULES)))
def test_snippets_with_modules_run(page, snippet, tmp_path, monkeypatch):
    find_torchvision()  # for timm
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})


@pytest.mark.parametrize('page, snippet', CONFIGS, ids=range(len(CONFIGS)))
def test_config_snippets_put_acmix_into_a_host_detector(page, snippet, tmp_path):
    path = tmp_path / 'own.py'
    base = '' if '_base_' in snippet else "_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\n"
    path.write_text(base + snippet)
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None  # no download
    init_default_scope('mmdet')

    detector: BaseModule = MODELS.build(cfg.model)
    assert any(isinstance(module, ACmix) for module in detector.modules())


def test_the_snippet_for_plain_swin_loads_its_weights(tmp_path):
    from mmdet.models.backbones import SwinTransformer

    (snippet,) = [snippet for _, snippet in SNIPPETS if 'def plain_swin' in snippet]
    host = SwinTransformer()
    torch.save(dict(model=host.state_dict()), tmp_path / 'swin.pth')
    names = {}
    exec(snippet, names)
    network = names['plain_swin'](tmp_path / 'swin.pth')
    assert torch.equal(network.stages[0][0].attn.qkv.weight, host.stages[0].blocks[0].attn.w_msa.qkv.weight)


@pytest.mark.parametrize('page, snippet', ABOUT_SEGMENTORS)
def test_config_snippets_for_segmentors_load(tmp_path, page, snippet):
    base = '' if '_base_' in snippet else "_base_ = 'configs/upernet_acmix.py'\n"
    path = tmp_path / 'own.py'
    path.write_text((base + snippet).replace("'configs/", f"'{ROOT}/configs/"))
    cfg = Config.fromfile(path)
    assert cfg.model.backbone.type == 'ACmixSwinTransformer'
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'


def test_the_snippet_for_own_segmentation_data_reads_it(tmp_path):
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


def test_the_snippet_for_own_detection_data_reads_it(tmp_path):
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


def test_the_hours_of_the_roadmap_follow_its_model():
    images = dict(coco=117_266, imagenet=1_281_167)  # of the training set, with objects
    macs = json.loads((ROOT / 'configs' / 'zoo.json').read_text())['models']
    rows = re.findall(r'^\| \d+ \| `(.+?)` \| ([\d,]+) \| ([\d.]+) \|', (DOCS / 'roadmap.md').read_text(), re.MULTILINE)
    assert len(rows) >= 9
    for name, count, hours in rows:
        cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
        loop = cfg.train_cfg
        if 'max_epochs' in loop:
            expected = loop.max_epochs * images['imagenet' if 'in1k' in name else 'coco']
        else:
            expected = loop.max_iters * cfg.auto_scale_lr.base_batch_size
        assert int(count.replace(',', '')) == expected
        modelled = 6 * macs[f'{name}.py']['macs'] * expected / (8 * 20e12) / 3600
        assert float(hours) == round(modelled, 1), (name, modelled)


def test_the_table_of_backbones_lists_all_with_their_parameters():
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
        if name in MODELS.module_dict  # ResNet is only a base class
    }


def test_the_table_of_weights_lists_all_sources():
    table = (ROOT / 'docs' / 'weights.md').read_text().split('## Convert')[0]
    assert set(re.findall(r'^\| `([\w-]+)` \|', table, re.MULTILINE)) == set(SOURCES)


@pytest.mark.parametrize('page', [*PAGES, *POLICIES, TUTORIAL], ids=lambda page: page.stem)
def test_files_named_on_a_page_exist(page):
    text = page.read_text()
    for name in re.findall(r'\b(?:configs|tools|docs|tests)/[\w/.{},-]+\.(?:py|sh|md)\b', text):
        choices = [part.split(',') for part in re.findall(r'{(.*?)}', name)]
        for choice in product(*choices):
            parts = iter(choice)
            path = re.sub(r'{.*?}', lambda _, parts=parts: next(parts), name)
            assert (ROOT / path).exists(), path
    for name in re.findall(r'\]\(([\w/.-]+\.(?:md|png|jpg))(?:#[\w-]+)?\)', text):
        assert (page.parent / name).exists(), name


def test_the_tutorial_is_stored_as_executed():
    cells = [cell for cell in json.loads(TUTORIAL.read_text())['cells'] if cell['cell_type'] == 'code']
    assert [cell['execution_count'] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell['outputs'] if output['output_type'] == 'error']


def test_every_tool_is_executable():
    tools = sorted(path for path in (ROOT / 'tools').iterdir() if path.suffix in ('.py', '.sh'))
    assert [tool.name for tool in tools if not os.access(tool, os.X_OK)] == ['openmp.py']  # which the others import


def test_every_tool_and_config_folder_is_documented():
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


@pytest.fixture
def figures(tmp_path, monkeypatch):
    module = load('../docs/figures.py')
    monkeypatch.setattr(module, 'IMAGES', tmp_path)
    return module


def pixels(path):
    return np.array(Image.open(path).convert('RGB'), float)


def difference(one, other, margin=4, tile=8):
    """The largest difference between means over tiles, at the best alignment within the margin, from 0 to 255.

    Other versions of fonts and renderers change the size by a few pixels, and edges within tiles: below 20 in total.
    """
    assert abs(np.subtract(one.shape, other.shape)).max() <= margin
    rows, columns = ((min(sides) - 2 * margin) // tile for sides in zip(one.shape[:2], other.shape[:2], strict=True))

    def means(picture, top, left):
        part = picture[top : top + rows * tile, left : left + columns * tile]
        return part.reshape(rows, tile, columns, tile, 3).mean((1, 3))

    centre = means(one, margin, margin)
    return min(abs(centre - means(other, *offset)).max() for offset in product(range(2 * margin + 1), repeat=2))


def test_figures_are_drawn_by_their_script(figures, tmp_path):
    figures.main()
    images = DOCS / 'images'
    stored = {path.name: pixels(path) for path in (*images.glob('operator_*.png'), images / 'tiles.png')}
    assert {path.name for path in tmp_path.iterdir()} == stored.keys()
    assert {name: value for name in stored if (value := difference(pixels(tmp_path / name), stored[name])) > 20} == {}
    pages = {'tiles.png': 'backends.md'}
    assert all(f'images/{name}' in (DOCS / pages.get(name, 'four_ways.md')).read_text() for name in stored)


CHANGES = {
    'colour': ('paths', 'SHARED', lambda color: '#fbe0c8'),
    'symbol': (
        'paths',
        'arrow',
        lambda draw: lambda *place: draw(*place[:3], *(text.replace('beta', 'alpha') for text in place[3:])),
    ),
    'letter': ('lesa', 'box', lambda draw: lambda *place: draw(*place[:5], place[5].replace('BN', 'LN'), place[6])),
    'content': ('shifts', 'shift_kernels', lambda compute: lambda *sizes: compute(*sizes).flip(-1)),
}


@pytest.mark.parametrize('name, part, change', CHANGES.values(), ids=CHANGES)
def test_a_changed_figure_differs_from_the_stored_one(figures, tmp_path, monkeypatch, name, part, change):
    monkeypatch.setattr(figures, part, change(getattr(figures, part)))
    getattr(figures, name)()
    path = f'operator_{name}.png'
    assert difference(pixels(tmp_path / path), pixels(DOCS / 'images' / path)) > 20


def test_other_fonts_and_renderers_are_tolerated():
    picture = Image.open(DOCS / 'images' / 'operator_lesa.png').convert('RGB')
    half_a_pixel = (1, 0, 0.5, 0, 1, 0.5)
    moved = picture.transform(picture.size, Image.Transform.AFFINE, half_a_pixel, Image.Resampling.BILINEAR)
    grown = np.pad(np.array(moved, float), ((3, 0), (2, 0), (0, 0)), constant_values=255)
    assert difference(np.array(picture, float), grown) < 20
