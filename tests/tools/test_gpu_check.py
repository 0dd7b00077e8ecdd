"""tools/gpu_check.py: its table, its JSON and its exit status, and that a failing check stops no other."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmacmix.errors import UserError
from mmacmix.layers import ACmix
from mmacmix.ops.backends import choice
from mmacmix.reporting import gpu_behaviour, gpu_check
from mmacmix.reporting.gpu_check import Failed, Finding, Skipped, run_checks
from tests.tooling import load

CPU = torch.device('cpu')


def rows_of(out):
    """The rows of the table that the tool prints, without the titles."""
    lines = [line for line in out.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]


@pytest.mark.slow
def test_all_checks_pass_on_a_cpu(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv('MMACMIX_BACKEND', raising=False)
    file = tmp_path / 'new' / 'gpu-check.json'
    load('gpu_check.py').main(['--quick', '--device', 'cpu', '--json', str(file)])
    rows, report = rows_of(capsys.readouterr().out), json.loads(file.read_text())
    assert [list(row.values())[:3] for row in report['rows']] == rows
    assert report['torch'] and report['mmcv'] and report['gpu'] is None and report['quick']
    results = {check: result for check, result, _ in rows}
    assert 'failed' not in results.values()
    skipped = {check for check, result in results.items() if result == 'skipped'}
    assert {'memory, training step, bfloat16', 'speed, NATTEN, forward, bfloat16'} <= skipped
    for start in ('auto, float32', 'operator, tiles', 'layer, LESA', 'determinism', 'training', 'speed, ResNet-50'):
        assert 'passed' in {result for check, result in results.items() if check.startswith(start)}


def fails():
    raise RuntimeError('no such kernel\nand more')


def skips():
    raise Skipped('nothing to check')


def is_wrong():
    raise Failed('an error of 2 | 1', dict(error=2))


def test_a_failing_check_stops_no_other(monkeypatch, capsys, tmp_path):
    tool, file = load('gpu_check.py'), tmp_path / 'gpu-check.json'
    checks = {'first': fails, 'second': is_wrong, 'third': skips, 'last': lambda: Finding('fine', dict(seconds=[1.0]))}
    monkeypatch.setattr(tool, 'all_checks', lambda device, quick: checks)
    with pytest.raises(SystemExit) as caught:
        tool.main(['--device', 'cpu', '--json', str(file)])
    assert caught.value.code == 1
    out = capsys.readouterr().out
    assert rows_of(out) == [
        ['first', 'failed', 'RuntimeError: no such kernel'],
        ['second', 'failed', 'an error of 2 / 1'],
        ['third', 'skipped', 'nothing to check'],
        ['last', 'passed', 'fine'],
    ]
    assert '1 passed, 2 failed, 1 skipped' in out
    numbers = [row['numbers'] for row in json.loads(file.read_text())['rows']]
    assert numbers == [{}, dict(error=2), {}, dict(seconds=[1.0])]


def test_results_are_written_after_every_check(monkeypatch, tmp_path):
    tool, file = load('gpu_check.py'), tmp_path / 'gpu-check.json'

    def crash():
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, 'all_checks', lambda device, quick: {'first': skips, 'second': crash})
    with pytest.raises(KeyboardInterrupt):
        tool.main(['--device', 'cpu', '--json', str(file)])
    assert [row['check'] for row in json.loads(file.read_text())['rows']] == ['first']


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_one_sentence_says_so(capsys):
    with pytest.raises(SystemExit) as caught:
        load('gpu_check.py').main([])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert 'finds no GPU' in captured.err and captured.err.count('\n') == 1 and not captured.out


@pytest.mark.parametrize(
    'arguments, message',
    [(('--device', 'abacus'), '--device: '), (('--device', 'cpu', '--json', '/proc/nowhere/a.json'), 'be written')],
)
def test_mistakes_are_reported_in_one_sentence(arguments, message):
    with pytest.raises(UserError, match=message):
        load('gpu_check.py').main(list(arguments))


def test_wrong_results_are_noticed(monkeypatch):
    right = gpu_check.neighborhood_attention

    def wrong(*arguments):
        return (1 + 1e-5 * (arguments[-1] == 'tiles')) * right(*arguments)

    monkeypatch.setattr(gpu_check, 'neighborhood_attention', wrong)
    cases = gpu_check._cases(quick=True)[:1]
    with pytest.raises(Failed, match='the output has an error of .*, above 3e-06, for 5x4, head_dim 16, stride 1'):
        gpu_check.check_operator(CPU, torch.float32, 'tiles', cases)
    gpu_check.check_operator(CPU, torch.float32, 'reference', cases)

    class Inexact(nn.Linear):
        def forward(self, x):
            return super().forward(x).float().to(x.dtype) * (1 if x.dtype == torch.float64 else float('nan'))

    with pytest.raises(Failed, match='the output has an error of nan'):
        gpu_check.check_layer(CPU, torch.float32, lambda: Inexact(3, 3), (2, 3))


def test_kernels_that_are_refused_fail_the_choice(monkeypatch):
    pytest.importorskip('triton')
    monkeypatch.setattr(choice, 'runs_kernels', lambda device: True)
    monkeypatch.setattr(choice, 'choose', lambda *_: 'tiles')
    with pytest.raises(Failed, match="'tiles' is chosen for head_dim 16"):
        gpu_check.check_choice(CPU, torch.float16)


def test_gradients_that_differ_between_passes_are_noticed(monkeypatch):
    class Random(nn.Conv2d):
        def __init__(self, *channels):
            super().__init__(*channels, 1)

        def forward(self, x):
            return super().forward(x) * torch.rand(1)

    monkeypatch.setattr(gpu_behaviour, 'ACmix', Random)
    with pytest.raises(Failed, match='different gradients of weight, bias, input'):
        gpu_behaviour.check_determinism(CPU, torch.float32)
    attend = gpu_behaviour.neighborhood_attention
    monkeypatch.setattr(
        gpu_behaviour, 'neighborhood_attention', lambda *maps, **options: attend(*maps, **options) * torch.rand(1)
    )
    with pytest.raises(Failed, match='different gradients of query, key, value'):
        gpu_behaviour.check_determinism_of_tiles(CPU, torch.float32)
    assert not torch.are_deterministic_algorithms_enabled()


def test_checkpoints_that_change_gradients_are_noticed(monkeypatch):
    gpu_behaviour.check_checkpoint(CPU)
    monkeypatch.setattr(gpu_behaviour, 'checkpoint', lambda layer, x, use_reentrant: 1.001 * layer(x))
    with pytest.raises(Failed, match='gradients with and without a checkpoint differ by'):
        gpu_behaviour.check_checkpoint(CPU)


def test_parameters_that_an_empty_batch_leaves_out_are_noticed(monkeypatch):
    gpu_behaviour.check_empty_batch(CPU)

    class Partial(ACmix):
        def forward(self, x):
            return super().forward(x).detach() + self.query.bias.sum()

    monkeypatch.setattr(gpu_behaviour, 'ACmix', Partial)
    with pytest.raises(Failed, match=r'parameters without a gradient: \[.*key.bias'):
        gpu_behaviour.check_empty_batch(CPU)


def test_a_layer_is_checked_under_autocast():
    detail, errors = gpu_check.check_layer(CPU, torch.float32, *gpu_check.LAYERS['ACmix'], torch.bfloat16)
    assert detail.endswith('bound 3e-02') and 1e-3 < errors['output'] < 3e-2  # rounded


def test_speed_is_measured_for_what_runs():
    tool = load('gpu_check.py')

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError('no such kernel')

    class TooLarge(nn.Module):
        def forward(self, x):
            raise torch.cuda.OutOfMemoryError('out of memory')

    networks = {'plain': nn.Conv2d(3, 3, 1), 'large': TooLarge(), 'other': nn.Conv2d(3, 3, 3)}
    common = CPU, torch.bfloat16, True
    detail, seconds = tool.check_speed(*common, lambda: networks, (1, 3, 8, 8), 1)
    assert detail.startswith('batch 1 of 8x8, 10 repeats: plain ') and ' times plain); large does not fit' in detail
    assert list(seconds) == ['plain', 'other'] and len(seconds['plain']) == 10
    with pytest.raises(Failed, match='broken: no such kernel; batch 1 of 8x8, .*: plain') as caught:
        tool.check_speed(*common, lambda: networks | dict(broken=Broken()), (1, 3, 8, 8), 1)
    assert list(caught.value.numbers) == ['plain', 'other']
    (row,) = run_checks({'all': lambda: tool.check_speed(*common, lambda: dict(a=TooLarge()), (1, 3, 8, 8), 1)})
    assert row.result == 'skipped'


def test_the_gpu_and_the_versions_are_named(monkeypatch):
    tool = load('gpu_check.py')
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'A GPU')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))
    monkeypatch.setattr(tool.subprocess, 'run', lambda *_, **__: SimpleNamespace(stdout='550.1\n550.1\n'))
    facts = tool.machine(torch.device('cuda'))
    assert (facts['gpu'], facts['capability'], facts['driver']) == ('A GPU', '8.0', '550.1')
    assert facts['torch'] == torch.__version__
    monkeypatch.setattr(tool.subprocess, 'run', fails_to_start)
    assert tool.driver() is None


def fails_to_start(*_, **__):
    raise FileNotFoundError
