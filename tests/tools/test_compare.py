"""tools/compare.py: seeds of a config become a table and a chart, and failed runs are reported."""

import json

import pytest

from mmacmix.datasets import write_shapes
from mmacmix.reporting.comparison import TEST_RESULTS
from tests.tooling import ROOT, complaint, load, start

CONFIG = ROOT / 'configs' / 'ablation' / 'both.py'
OPTIONS = [
    '--cfg-options', 'model.backbone.base_channels=8', 'model.neck.in_channels=[32,64,128,256]',
    'train_cfg.max_iters=2', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=1',
    'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False', 'default_hooks.logger.interval=1',
    'model.test_cfg.rcnn.score_thr=0.0', 'visualizer.name=run{seed}',
]  # fmt: skip


@pytest.mark.slow
def test_two_seeds_become_a_table_and_a_chart(tmp_path, monkeypatch, capsys):
    write_shapes(tmp_path / 'data' / 'shapes', train=4, val=2)
    arguments = [CONFIG, '--work-dir', 'out', '--seeds', 2, '--jobs', 2, *OPTIONS]
    done = start(ROOT / 'tools' / 'compare.py', *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = (tmp_path / 'out' / 'table.md').read_text().splitlines()
    assert len(rows) == 3 and rows[2].startswith('| both | 0.') and rows[0].count('|') == rows[2].count('|')
    assert (tmp_path / 'out' / 'chart.png').stat().st_size > 5000
    logs = [(tmp_path / f'out/both/seed{seed}/train.log').read_text() for seed in (0, 1)]
    assert all(f'seed: {seed}' in log and f"name='run{seed}'" in log for seed, log in enumerate(logs))
    costs = [json.loads((tmp_path / f'out/both/seed{seed}/cost.json').read_text()) for seed in (0, 1)]
    assert all(2**28 < cost['peak_memory'] < 2**33 for cost in costs)

    interrupted = tmp_path / 'out/both/seed1'
    (interrupted / 'cost.json').write_text(json.dumps(dict(config=costs[1]['config'])))
    done = start(ROOT / 'tools' / 'compare.py', *arguments, cwd=tmp_path)
    assert '1 of 2 runs have been finished before' in done.stdout
    assert 'resumed epoch: 0, iter: 2' in (interrupted / 'train.log').read_text()
    rows = (tmp_path / 'out' / 'table.md').read_text().splitlines()

    monkeypatch.chdir(tmp_path)
    load('compare.py').main(list(map(str, arguments)))
    printed = capsys.readouterr().out
    assert '2 of 2 runs have been finished before' in printed and rows[2] in printed
    parameters = float(rows[2].split('|')[4])
    assert parameters < 0.6  # million, of the backbone that --cfg-options narrows; otherwise it has more than 2 million

    tested = ['--test', *map(str, arguments)]
    load('compare.py').main(tested)
    assert '2/2 out/both/seed' in capsys.readouterr().out
    titles, _, row = (tmp_path / 'out' / 'table.md').read_text().splitlines()
    assert 'test coco/segm_mAP, mean of 2 |' in titles
    # In this config, the test images are the validation images.
    assert row.split('|')[4:6] == rows[2].split('|')[2:4]
    assert '| coco/bbox_mAP | ' in (tmp_path / 'out' / 'test.md').read_text()
    load('compare.py').main(tested)
    assert '2/2' not in capsys.readouterr().out  # neither trained nor tested again
    (interrupted / TEST_RESULTS).unlink()
    for checkpoint in interrupted.glob('*.pth'):
        checkpoint.unlink()
    assert 'both/seed1 holds a finished run, but no checkpoint to test' in complaint('compare.py', tested, capsys)
    told = complaint('compare.py', [*arguments, 'optim_wrapper.optimizer.lr=1'], capsys)
    assert 'both/seed0 holds a run of another config or with other options' in told


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nothing.py'], 'there is no config at nothing.py'),
        ([CONFIG, CONFIG], 'two of the configs have the same file name'),
        ([CONFIG, '--seeds', 0], '--seeds: must be positive, got 0'),
    ],
)
def test_mistakes_are_reported_before_training(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in complaint('compare.py', arguments, capsys)
    assert not list(tmp_path.iterdir())


def test_a_failed_run_is_reported_with_its_log(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = complaint('compare.py', [CONFIG, '--seeds', 1], capsys)
    assert 'with seed 0 failed; work_dirs/compare/both/seed0/train.log ends with: train.py: ' in told
    assert 'data/shapes' in told
    (cost,) = tmp_path.rglob('cost.json')
    assert 'peak_memory' not in json.loads(cost.read_text())  # so the run is not finished
