"""Time, memory and gradients of measured work are those of each alternative; tables and charts show them."""

import os

import torch
from PIL import Image
from torch import nn

from mmacmix.reporting import measurement
from mmacmix.reporting.measurement import Measured, Work, draw, draw_scaling, measure, table
from tests.tooling import ROOT, start

MEBIBYTE = 2**20


def test_each_alternative_has_its_own_time(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(measurement.time, 'perf_counter', lambda: next(clock))

    def wait():
        next(clock)

    results = measure({'short': Work(lambda: None), 'long': Work(wait)}, repeats=3)
    assert results['short'].seconds == [1, 1, 1] and results['long'].seconds == [2, 2, 2]


def test_memory_kept_for_backward_excludes_parameters():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    x = torch.rand(1, 16, 64, 64)  # kept for the kernels' gradient
    works = {
        'conv': Work(lambda: ([conv(x).sum()], [None]), [conv]),
        'squared': Work(lambda: ([conv(x).square().sum()], [None]), [conv]),
        'no backward': Work(lambda: None),
    }
    results = measure(works, repeats=1)
    assert results['conv'].kept_memory == x.nbytes
    assert results['squared'].kept_memory == 2 * x.nbytes
    assert results['no backward'].kept_memory is None


def test_backward_uses_the_given_gradients_and_does_not_accumulate():
    linear = nn.Linear(2, 2, bias=False)
    x, gradient = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    measure({'linear': Work(lambda: ([linear(x)], [gradient]), [linear])}, repeats=3)
    assert torch.equal(linear.weight.grad, gradient.T @ x)


PEAK = f"""
import torch
from mmacmix.reporting.measurement import Work, measure

before = torch.ones(40 * {MEBIBYTE}, dtype=torch.uint8)

def run():
    torch.ones(120 * {MEBIBYTE}, dtype=torch.uint8)
    torch.ones(60 * {MEBIBYTE}, dtype=torch.uint8)

print(measure({{'work': Work(run)}}, repeats=1)['work'].peak_memory, before.sum().item())
"""


def test_peak_memory_excludes_memory_in_use_before(tmp_path):
    # In a separate process, so that threads of other tests do not allocate memory meanwhile.
    (tmp_path / 'peak.py').write_text(PEAK)
    done = start(tmp_path / 'peak.py', cwd=ROOT)
    assert done.returncode == 0, done.stderr
    peak, before = done.stdout.split()
    if not os.access('/proc/self/clear_refs', os.W_OK):  # not reported by the system
        assert peak == 'None'
        return
    assert abs(int(peak) / MEBIBYTE - 120) < 8
    assert int(before) == 40 * MEBIBYTE


def test_the_table_compares_each_repeat_with_the_same_repeat_of_the_baseline():
    fast = Measured([0.001, 0.002, 0.004], 3 * MEBIBYTE, 2 * MEBIBYTE)
    slow = Measured([0.003, 0.004, 0.016], None, None)
    assert table({'fast': fast, 'slow': slow}, 'fast').splitlines()[2:] == [
        '| fast | 2.0 | 1 | 1 to 1 | 3 | 2 |',
        '| slow | 4.0 | 3 | 2 to 4 |  |  |',
    ]


def test_charts_depend_on_the_measurements(tmp_path):
    fast, slow = Measured([0.001, 0.002], MEBIBYTE, None), Measured([0.02, 0.04], MEBIBYTE, None)
    pictures = []
    for name, results in (('a', {'fast': fast, 'slow': slow}), ('b', {'fast': fast, 'slow': fast})):
        draw(results, 'times', tmp_path / f'{name}.png')
        pictures.append(Image.open(tmp_path / f'{name}.png').convert('RGB').tobytes())
    assert pictures[0] != pictures[1]
    widths = []
    for points in ([(1.0, fast), (2.0, slow)], [(1.0, fast), (1.0, slow._replace(peak_memory=None))]):
        draw_scaling({'series': points}, 'images', 'scaling', tmp_path / 'scaling.png')
        widths.append(Image.open(tmp_path / 'scaling.png').size[0])
    assert widths[0] > 1.5 * widths[1]  # without the memory panel
