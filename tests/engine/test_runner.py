"""Before a run starts, its data is checked to exist and to match the annotations of its evaluation."""

import pytest
from mmengine.config import Config

from mmacmix.engine import runner
from mmacmix.engine.runner import check_data
from mmacmix.errors import UserError


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / 'images').mkdir()
    dataset = dict(type='ADE20KDataset', data_root=str(tmp_path), data_prefix=dict(img_path='images'))
    with pytest.raises(UserError, match='val_dataloader reads images or maps from .*images, which is empty'):
        check_data(Config(dict(val_dataloader=dict(dataset=dataset))), ['val_dataloader'])
    (tmp_path / 'images' / '1.jpg').touch()
    check_data(Config(dict(val_dataloader=dict(dataset=dataset))), ['val_dataloader'])


def test_evaluation_against_another_annotation_file_gets_a_warning(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(runner, 'print_log', lambda note, *_: notes.append(note))
    for name in ('val.json', 'train.json'):
        (tmp_path / name).touch()
    cfg = Config(dict(val_dataloader=dict(dataset=dict(data_root=str(tmp_path), ann_file='val.json'))))
    for evaluator in (dict(ann_file=str(tmp_path / 'val.json')), [dict(type='DumpResults')]):
        cfg.val_evaluator = evaluator
        check_data(cfg, ['val_dataloader'])
    assert not notes
    cfg.val_evaluator = dict(ann_file=str(tmp_path / 'train.json'))
    check_data(cfg, ['val_dataloader'])
    (note,) = notes
    assert 'val.json, but its evaluator reads ' in note
