"""What the pages of docs/ say can be done, done."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmacmix.checkpoints import SOURCES
from mmacmix.datasets import write_shapes

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / 'docs').glob('*.md'))
SNIPPETS = [
    (page.stem, snippet)
    for page in PAGES
    for snippet in re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
]


def test_a_plain_swin_is_loaded(tmp_path):
    from mmdet.models.backbones import SwinTransformer

    (snippet,) = [snippet for _, snippet in SNIPPETS if 'def plain_swin' in snippet]
    host = SwinTransformer()
    torch.save(dict(model=host.state_dict()), tmp_path / 'swin.pth')
    names = {}
    exec(snippet, names)
    network = names['plain_swin'](tmp_path / 'swin.pth')
    assert torch.equal(network.stages[0][0].attn.qkv.weight, host.stages[0].blocks[0].attn.w_msa.qkv.weight)


@pytest.mark.parametrize('page, snippet', [item for item in SNIPPETS if 'def ' not in item[1]])
def test_a_snippet_of_a_config_is_one(tmp_path, page, snippet):
    base = '' if '_base_' in snippet else "_base_ = 'configs/upernet_acmix.py'\n"
    path = tmp_path / 'own.py'
    path.write_text((base + snippet).replace("'configs/", f"'{ROOT}/configs/"))
    cfg = Config.fromfile(path)
    assert cfg.model.backbone.type == 'ACmixSwinTransformer'
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'


def test_own_data_is_read(tmp_path):
    from mmseg.registry import DATASETS

    (snippet,) = [snippet for _, snippet in SNIPPETS if 'data/mine' in snippet]
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


def test_the_sources_of_weights_are_all_there():
    table = (ROOT / 'docs' / 'weights.md').read_text().split('## Convert')[0]
    assert set(re.findall(r'^\| `([\w-]+)` \|', table, re.MULTILINE)) == set(SOURCES)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_files_it_names_are_there(page):
    for name in re.findall(r'\b(?:configs|tools)/[\w/.-]+\.(?:py|sh)\b', page.read_text()):
        assert (ROOT / name).exists(), name
    for name in re.findall(r'\]\(([\w/.-]+\.md)\)', page.read_text()):
        assert (page.parent / name).exists(), name
