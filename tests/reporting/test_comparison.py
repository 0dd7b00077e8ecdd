"""Runs are read from their logs, and table and chart show their scores."""

import json

import numpy as np
import pytest
from PIL import Image

from mmacmix.reporting.comparison import Run, draw_comparison, read_run, scores_of_tests, table


def write_scalars(folder, lines):
    (folder / 'vis_data').mkdir(parents=True)
    (folder / 'vis_data' / 'scalars.json').write_text('\n'.join(json.dumps(line) for line in lines))


def test_a_restarted_run_is_read_from_its_last_start(tmp_path):
    write_scalars(tmp_path / '20260101_000000', [{'lr': 1, 'time': 9.0, 'step': 1}])
    training = [{'lr': 1, 'time': seconds, 'step': step} for step, seconds in ((1, 5.0), (2, 1.0), (3, 2.0))]
    # If training counts iterations, MMEngine logs evaluations at epoch 0.
    evaluations = [{'mIoU': 10.0, 'time': 0.1, 'step': 0}, {'mIoU': 30.0, 'time': 0.1, 'step': 0}]
    write_scalars(tmp_path / '20260101_000001', [*training[:2], evaluations[0], training[2], evaluations[1]])
    assert read_run(tmp_path, 'mIoU') == Run([2, 3], [10.0, 30.0], 2.0)
    with pytest.raises(ValueError, match="has a score 'AP'; available: mIoU$"):
        read_run(tmp_path, 'AP')


def test_the_table_has_mean_and_range():
    runs = {'a': [Run([100], [0.1], 1.0), Run([100], [0.4], 3.0)], 'b': [Run([50], [0.5], 2.0), Run([50], [0.5], 2.0)]}
    assert table(runs, 'AP', {'size': {'a': '7', 'b': '8'}}) == (
        '| config | AP, mean of 2 | lowest to highest | size | iterations | s per iteration |\n'
        '| --- | --- | --- | --- | --- | --- |\n'
        '| a | 0.250 | 0.100 to 0.400 | 7 | 100 | 2.00 |\n'
        '| b | 0.500 | 0.500 to 0.500 | 8 | 50 | 2.00 |\n'
    )


def test_scores_of_tests_are_listed_if_all_runs_have_them(tmp_path):
    write_scalars(tmp_path / '20260101_000000', [{'lr': 1, 'time': 1.0, 'step': 1}, {'AP': 0.3, 'step': 1}])
    assert read_run(tmp_path, 'AP').test is None
    (tmp_path / 'test').mkdir()
    (tmp_path / 'test' / 'test_results.json').write_text('{"AP": 0.1, "AP/person": 0.7}')
    tested = read_run(tmp_path, 'AP')
    other = tested._replace(test={'AP': 0.2})
    runs = {'a': [tested, other], 'b': [other]}
    first, _, row, _ = table(runs, 'AP', {}).splitlines()
    assert 'AP, mean of 2 | lowest to highest | test AP, mean of 2 | lowest to highest | iterations' in first
    assert row == '| a | 0.300 | 0.300 to 0.300 | 0.150 | 0.100 to 0.200 | 1 | 1.00 |'
    assert scores_of_tests(runs).splitlines()[2:] == ['| AP | 0.150 | 0.200 |', '| AP/person | 0.700 |  |']
    assert 'test' not in table({'a': [tested, other._replace(test=None)]}, 'AP', {})


@pytest.mark.parametrize('steps', [[5], [5, 10]])
def test_different_scores_give_different_charts(steps, tmp_path):
    runs = {name: [Run(steps, [score] * len(steps), 1.0)] for name, score in (('a', 0.1), ('b', 0.2))}
    draw_comparison(runs, 'AP', tmp_path / 'one.png')
    runs['b'] = [Run(steps, [0.05] * len(steps), 1.0)]
    draw_comparison(runs, 'AP', tmp_path / 'other.png')
    one, other = (np.array(Image.open(tmp_path / name)) for name in ('one.png', 'other.png'))
    assert min(one.shape[:2]) > 200 and (one.shape != other.shape or (one != other).any())
