"""tools/benchmark.py: which alternatives each command measures, the files it writes, and its messages."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mmacmix.errors import UserError
from mmacmix.layers import ACmix
from mmacmix.ops import available_backends
from mmacmix.reporting.measurement import Work, measure
from tests.conftest import needs_torch
from tests.tooling import ROOT, complaint, load

SMALL = (
    'model.backbone.base_channels=8',
    'model.neck.in_channels=[32,64,128,256]',
    'model.train_cfg.rcnn.sampler.num=8',
)


def rows(capsys, *arguments):
    """The first column of the table that the tool prints."""
    load('benchmark.py').main([*map(str, arguments), '--repeats', '1'])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    return [line.split('|')[1].strip() for line in lines[2:]]


def test_a_layer_is_measured_with_every_backend(capsys, tmp_path):
    out = tmp_path / 'new' / 'op.json'
    names = rows(capsys, 'op', '--channels', 8, '--size', 9, 12, '--json', out, '--chart', tmp_path / 'op.png')
    assert names == ['plain 3x3', 'tiles', 'reference', 'fused', 'XVolution', 'XVolution, fused']
    report = json.loads(out.read_text())
    assert list(report['results']) == names and len(report['results']['fused']['seconds']) == 1
    assert report['settings']['size'] == [9, 12] and report['torch']
    assert (tmp_path / 'op.png').stat().st_size > 5000


def test_backward_reports_kept_memory_and_skips_fused_layers(capsys, tmp_path):
    out = tmp_path / 'op.json'
    options = ('--backward', '--dtype', 'bfloat16', '--channels-last', '--stride', 2)
    names = rows(capsys, 'op', '--channels', 16, '--size', 9, 12, *options, '--json', out)
    assert names == ['plain 3x3', 'tiles', 'reference', 'XVolution', 'LESA']
    kept = {name: each['kept_memory'] for name, each in json.loads(out.read_text())['results'].items()}
    assert 0 < kept['tiles'] < kept['reference']


def test_alternatives_and_baseline_can_be_chosen(capsys):
    options = ('--only', 'fused', '--baseline', 'tiles')
    assert rows(capsys, 'op', '--channels', 8, '--size', 9, 12, *options) == ['tiles', 'fused']


def test_backbones_are_measured(capsys):
    assert rows(capsys, 'backbone', 'swin-tiny', '--size', 32, 32, '--backward') == ['plain', 'ACmix']
    only = ('--only', 'tiles', 'XVolutionResNet, fused', 'LESAResNet', 'plain, fused')
    names = rows(capsys, 'backbone', 'resnet50', '--size', 32, 32, *only)
    assert names == ['plain', 'tiles', 'XVolutionResNet, fused', 'LESAResNet', 'plain, fused']


@pytest.mark.slow
@needs_torch('2.6', 'exporting a network')
def test_exported_networks_are_measured(capsys):
    names = rows(capsys, 'deploy', 'resnet50', '--size', 64, 64, '--only', 'ACmix, onnxruntime', 'ACmix, torch')
    assert names == ['plain, torch', 'ACmix, torch', 'ACmix, onnxruntime']


def test_busy_neighbors_run_while_alternatives_are_measured(capsys, monkeypatch):
    tool, alive = load('benchmark.py'), []

    def count(works, *_):
        children = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(os.getpid())], capture_output=True, text=True)
        alive.append(len(children.stdout.split()) - 1)  # ps itself
        return measure(works, 1)

    monkeypatch.setattr(tool, 'measure', count)
    arguments = ['op', '--channels', '8', '--size', '9', '12', '--only', 'tiles', '--repeats', '1']
    tool.main([*arguments, '--neighbors', '2'])
    assert 'forward, beside 2 busy processes; ' in capsys.readouterr().out
    tool.main(arguments)
    assert alive[0] == alive[1] + 2 and 'busy' not in capsys.readouterr().out


def test_detectors_and_their_training_are_measured(capsys):
    config = ROOT / 'configs/mask_rcnn/mask-rcnn_acmix-r26_fpn_1x_coco.py'
    common = (config, '--size', 64, 96, '--cfg-options', *SMALL)
    assert rows(capsys, 'detector', *common) == [config.stem, f'{config.stem}, fused']
    assert rows(capsys, 'train', *common) == [config.stem]
    shapes = ROOT / 'configs/shapes/mask-rcnn_acmix-r26_shapes.py'  # has fewer classes
    assert rows(capsys, 'train', shapes, '--size', 128, 160) == [shapes.stem]


def test_a_host_config_is_measured(capsys):
    name = 'retinanet_r50_fpn_1x_coco'
    options = ('--size', 32, 32, '--cfg-options', 'model.backbone.init_cfg=None')
    assert rows(capsys, 'train', f'mmdet::retinanet/{name}.py', *options) == [name]


def test_scaling_covers_area_and_batch_size(capsys, tmp_path):
    names = rows(capsys, 'scaling', '--size', 64, 128, '--chart', tmp_path / 'scaling.png')
    assert names[:4] == ['1 of 32x64', '1 of 45x91', '1 of 55x111', '1 of 64x128']
    assert names[4:] == ['2 of 32x64', '3 of 32x64', '4 of 32x64']
    assert (tmp_path / 'scaling.png').stat().st_size > 5000


def counts(capsys, *arguments):
    """What the tool prints, and the rows of its first table by name."""
    load('benchmark.py').main(['launches', *map(str, arguments)])
    out = capsys.readouterr().out
    table = out.split('\n\n')[1].splitlines()
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table]
    return out, {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


@needs_torch('2.4', 'counting launches')
def test_launches_of_a_layer_are_counted_for_every_backend(capsys, tmp_path):
    file = tmp_path / 'new' / 'launches.json'
    out, rows = counts(capsys, '--dtype', 'bfloat16', '--json', file)
    assert 'Counted, not measured' in out and '3 TB/s where a launch costs 5 us' in out
    assert list(rows) == ['plain 3x3', *available_backends('cuda')]
    size, weight = 64 * 200 * 336 * 2, 64 * 64 * 9 * 2
    assert rows['plain 3x3'] == {
        'launches': '1',
        'GB': '0.0173',
        'maps': '2.0',
        'modelled ms': f'{(2 * size + weight) / 3e9:.3g}',
        'times plain': '1',
    }
    report = json.loads(file.read_text())
    assert report['results']['plain 3x3'] == dict(
        launches=1, bytes=2 * size + weight, seconds=pytest.approx((2 * size + weight) / 3e12)
    )
    assert report['model'] == dict(launch_seconds=5e-6, bytes_per_second=3e12) and report['map_bytes'] == size
    assert report['settings']['size'] == [200, 336] and list(report['results']) == list(rows)
    # The published algorithm copies the window of every query.
    assert float(rows['reference']['maps']) > 2 * 2 * 49


@needs_torch('2.4', 'counting launches')
def test_operations_are_listed(capsys, tmp_path):
    file = tmp_path / 'launches.json'
    options = ('--channels', 8, '--size', 9, 12, '--batch', 2, '--backend', 'reference', '--verbose', '--json', file)
    out, rows = counts(capsys, *options)
    assert list(rows) == ['plain 3x3', 'reference']
    weight = 8 * 8 * 9 / (2 * 8 * 9 * 12)
    assert f'| convolution | 1 | {1 + weight:.3f} | 1.000 | 2x8x9x12 8x8x3x3 |' in out
    result = json.loads(file.read_text())['results']['reference']
    assert sum(each['launches'] for each in result['operations']) == result['launches']
    assert sum(each['read'] + each['written'] for each in result['operations']) == result['bytes']


@needs_torch('2.4', 'counting launches')
@pytest.mark.parametrize('network', ['resnet50', 'swin-tiny'])
def test_launches_of_backbones_are_counted(network, capsys):
    options = ('--backend', 'reference') if network == 'resnet50' else ()
    forward = counts(capsys, network, '--size', 64, 96, *options)[1]
    assert list(forward) == ['plain', 'reference' if options else 'ACmix']
    both = counts(capsys, network, '--size', 64, 96, '--backward', '--dtype', 'bfloat16', *options)[1]
    assert torch.get_default_dtype() == torch.float32
    for name, row in forward.items():
        assert int(row['launches']) < int(both[name]['launches']) and 'maps' not in row
    if network == 'resnet50':
        assert forward['plain']['launches'] == '172' and both['plain']['launches'] == '416'


@needs_torch('2.4', 'counting launches')
def test_launches_without_triton(monkeypatch, capsys):
    tool = load('benchmark.py')
    monkeypatch.setattr(tool, 'available_backends', lambda device: ('reference',))
    tool.main(['launches', '--channels', '8', '--size', '9', '9'])
    assert "'triton' is not counted, because Triton is not installed.\n" in capsys.readouterr().out
    with pytest.raises(UserError, match="no backend 'triton' for CUDA: Triton is not installed; choose from reference"):
        tool.main(['launches', '--backend', 'triton'])


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('op', '--channels', 0), '--channels: must be positive, got 0'),
        (('op', '--size', 0, 3), '--size: must be positive, got 0'),
        (('op', '--chart', 'a.jpg'), '--chart: must be a .png file, got a.jpg'),
        (
            ('op', '--only', 'fast'),
            "no alternative 'fast': choose from 'plain 3x3', 'tiles', 'reference', 'fused', 'XVolution'",
        ),
        (('train', 'nowhere.py'), 'there is no config at nowhere.py'),
        (('train', 'mmdet::nowhere.py'), 'mmdet/.mim/configs/nowhere.py'),
        (('train', 'nothing_of_that_name::a.py'), 'config of nothing_of_that_name, which is not installed'),
        (('train', 'a/b.py', 'c/b.py'), 'two of the configs have the same file name'),
        (('op', '--channels', 6), 'out_channels must be a multiple of num_heads, got 6 and 4'),
        (('op', '--json', '/proc/nowhere/a.json'), '/proc/nowhere/a.json cannot be written'),
        (('op', '--device', 'abacus'), 'op cannot be measured with these arguments'),
        pytest.param(
            ('launches', '--backend', 'fast'),
            "there is no backend 'fast' for CUDA; choose from",
            marks=needs_torch('2.4', 'counting launches'),
        ),
        pytest.param(
            ('launches', 'swin-tiny', '--backend', 'reference'),
            '--backend does not apply to swin-tiny',
            marks=needs_torch('2.4', 'counting launches'),
        ),
        pytest.param(
            ('launches', 'resnet50', '--channels', '8'),
            '--channels is for a layer',
            marks=needs_torch('2.4', 'counting launches'),
        ),
        pytest.param(
            ('launches', '--channels', '6'),
            'out_channels must be a multiple of num_heads, got 6 and 4',
            marks=needs_torch('2.4', 'counting launches'),
        ),
    ],
)
def test_mistakes_are_reported_in_one_sentence(arguments, message, capsys):
    assert message in complaint('benchmark.py', arguments, capsys)


def test_an_alternative_that_fails_is_reported_and_skipped(monkeypatch, capsys):
    tool = load('benchmark.py')

    def works(args):
        def fail():
            raise RuntimeError('no such kernel\nand more')

        return {'plain': Work(lambda: None), 'other': Work(fail)}

    monkeypatch.setattr(tool, 'layers', works)
    tool.main(['op', '--repeats', '1'])
    out = capsys.readouterr().out
    assert 'other cannot be measured with these arguments: no such kernel\n' in out and '| plain |' in out
    with pytest.raises(UserError, match='other cannot be measured .* no such kernel; choose another --baseline'):
        tool.main(['op', '--repeats', '1', '--baseline', 'other'])


def test_a_detector_gets_images_in_the_chosen_memory_format():
    tool = load('benchmark.py')
    args = SimpleNamespace(channels_last=True, batch=1, size=(8, 8), device='cpu', dtype='float32')
    seen = []
    network = nn.Conv2d(3, 3, 1)
    network.forward = lambda image, *_, **__: seen.append(image)
    tool.inference(network, args).run()
    assert seen[0].is_contiguous(memory_format=torch.channels_last) and not seen[0].is_contiguous()


def clamped_attention(query, key, value, kernel_size):
    """NATTEN's na2d for ``(B, H, W, heads, d)``: windows that cross the border are moved inwards."""
    height, width = query.shape[1:3]
    out = torch.empty_like(query)
    for y, x in np.ndindex(height, width):
        top, left = (min(max(at - kernel_size // 2, 0), side - kernel_size) for at, side in ((y, height), (x, width)))
        keys, values = (
            each[:, top : top + kernel_size, left : left + kernel_size].flatten(1, 2) for each in (key, value)
        )
        scores = torch.einsum('bhd,bkhd->bkh', query[:, y, x], keys) * query.shape[-1] ** -0.5
        out[:, y, x] = torch.einsum('bkh,bkhd->bhd', scores.softmax(1), values)
    return out


def test_acmix_with_natten_gives_the_same_output(monkeypatch):
    calls = []
    monkeypatch.setitem(
        sys.modules, 'natten', SimpleNamespace(na2d=lambda *maps: calls.append(maps) or clamped_attention(*maps))
    )
    layer, x = ACmix(8, 8, backend='reference').double(), torch.rand(2, 8, 9, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(load('benchmark.py').WithNatten.of(layer)(x), layer(x), rtol=0, atol=1e-12)
    assert len(calls) == 1  # not by the other layer
