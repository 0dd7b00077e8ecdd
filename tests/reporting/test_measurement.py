import time

import pytest
import torch
from PIL import Image
from torch import nn

from mmacmix.reporting.measurement import Measured, draw, draw_scaling, measure, ratio, table

MEBIBYTE = 2**20


def test_time_is_that_of_each_alternative():
    results = measure({'short': lambda: time.sleep(0.01), 'long': lambda: time.sleep(0.04)}, repeats=3)
    assert all(len(each.seconds) == 3 for each in results.values())
    assert min(results['long'].seconds) >= 0.04 > max(results['short'].seconds) >= 0.01


def test_memory_kept_for_backward_is_that_of_maps_without_parameters():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    x = torch.rand(1, 16, 64, 64)  # kept for the kernels' gradient
    results = measure({'conv': lambda: conv(x).sum(), 'squared': lambda: conv(x).square().sum()}, repeats=1)
    assert results['conv'].kept_memory == x.nbytes
    assert results['squared'].kept_memory == 2 * x.nbytes
    assert measure({'no backward': lambda: None}, repeats=1)['no backward'].kept_memory is None


def test_peak_memory_is_what_was_taken_beside_what_was_there():
    before = torch.ones(40 * MEBIBYTE, dtype=torch.uint8)

    def work():
        torch.ones(80 * MEBIBYTE, dtype=torch.uint8)
        torch.ones(20 * MEBIBYTE, dtype=torch.uint8)

    peak = measure({'work': work}, repeats=1)['work'].peak_memory
    assert abs(peak / MEBIBYTE - 80) < 8
    assert before.sum() == len(before)


def test_a_ratio_compares_the_same_repeats():
    fast, slow = Measured([1.0, 2.0, 4.0], None, None), Measured([3.0, 4.0, 16.0], None, None)
    assert ratio(slow, fast) == (3, 2, 4)


def test_table():
    fast = Measured([0.001, 0.002, 0.004], 3 * MEBIBYTE, 2 * MEBIBYTE)
    slow = Measured([0.003, 0.004, 0.016], None, None)
    assert table({'fast': fast, 'slow': slow}, 'fast').splitlines()[2:] == [
        '| fast | 2.0 | 1 | 1 to 1 | 3 | 2 |',
        '| slow | 4.0 | 3 | 2 to 4 |  |  |',
    ]


def test_charts_show_what_was_measured(tmp_path):
    fast, slow = Measured([0.001, 0.002], MEBIBYTE, None), Measured([0.02, 0.04], MEBIBYTE, None)
    pictures = []
    for name, results in (('a', {'fast': fast, 'slow': slow}), ('b', {'fast': fast, 'slow': fast})):
        draw(results, 'times', tmp_path / f'{name}.png')
        pictures.append(Image.open(tmp_path / f'{name}.png').convert('RGB').tobytes())
    assert pictures[0] != pictures[1]
    draw_scaling({1.0: fast, 2.0: slow}, 'images', 'scaling', tmp_path / 'scaling.png')
    assert min(Image.open(tmp_path / 'scaling.png').size) > 300


@pytest.mark.parametrize('device', ['cpu', torch.device('cpu')])
def test_a_device_may_be_a_name(device):
    assert measure({'nothing': lambda: None}, repeats=2, device=device)['nothing'].peak_memory >= 0
