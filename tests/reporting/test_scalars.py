"""Logs of all starts of a training are read as one."""

import json

import pytest

from mmacmix.reporting.scalars import read_scalars


def write(folder, lines):
    (folder / 'vis_data').mkdir(parents=True)
    (folder / 'vis_data' / 'scalars.json').write_text(''.join(f'{json.dumps(line)}\n' for line in lines))


def training(*steps, lr=1):
    return [dict(lr=lr, loss=0.5, step=step) for step in steps]


def test_a_resumed_training_is_one_run_and_a_test_is_skipped(tmp_path):
    write(tmp_path / '1', [*training(1, 2), dict(mIoU=1.0, step=0), *training(3, 4), dict(mIoU=2.0, step=0)])
    write(tmp_path / '2', [*training(3, lr=2), dict(mIoU=3.0, step=0)])
    write(tmp_path / '3', [dict(mIoU=9.0, step=0)])
    scalars = read_scalars(tmp_path)
    assert [(line['step'], line['lr']) for line in scalars.training] == [(1, 1), (2, 1), (3, 2)]
    assert [(line['step'], line['mIoU']) for line in scalars.evaluations] == [(2, 1.0), (3, 3.0)]
    assert scalars.scores == ['mIoU']


def test_path_weights_are_not_evaluations(tmp_path):
    weights = {'path_weights/layer/attention_rate': 0.5, 'step': 2}
    write(tmp_path / '1', [*training(1), weights])
    assert read_scalars(tmp_path).path_weights == [weights] and not read_scalars(tmp_path).evaluations


def test_an_evaluation_gets_the_last_logged_iteration(tmp_path):
    weights = {'path_weights/layer/attention_rate': 0.5, 'step': 60}
    write(tmp_path / '1', [*training(25, 50), weights, dict(mIoU=1.0, step=0), dict(mIoU=2.0, step=70)])
    assert [line['step'] for line in read_scalars(tmp_path).evaluations] == [60, 70]


def test_a_folder_without_a_run_is_rejected(tmp_path):
    with pytest.raises(ValueError, match='holds no training run'):
        read_scalars(tmp_path)
