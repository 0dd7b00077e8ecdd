"""Short trainings of a segmentor end well whatever label is ignored and whatever goes wrong while they report."""

import csv
import json
from itertools import count
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from PIL import Image

from mmacmix.checkpoints import load_checkpoint
from mmacmix.datasets import SEMANTIC_CLASSES, write_shapes
from mmacmix.engine import build_runner
from mmacmix.reporting import path_weights, results_hook
from tests.conftest import SINGLE, tiny_config

ITERATIONS = 2  # an evaluation, a checkpoint, a log entry and a measurement of the path weights after each


@pytest.fixture
def config(tmp_path):
    """A segmentor and data whose maps hold labels from 0."""
    write_shapes(tmp_path / 'shapes', train=2, val=2, size=96)
    for path in (tmp_path / 'shapes' / 'semantic').rglob('*.png'):
        Image.fromarray(np.array(Image.open(path)) - 1).save(path)
    cfg = tiny_config('mmseg', SINGLE)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update(data_root=str(tmp_path / 'shapes'), reduce_zero_label=False)
    cfg.model.data_preprocessor.size = (112, 112)  # pads images and maps
    cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=1)
    cfg.default_hooks.checkpoint.interval = cfg.default_hooks.logger.interval = 1
    cfg.custom_hooks = [dict(type='PathWeightsHook', interval=1)]
    cfg.update(work_dir=str(tmp_path / 'run'), launcher='none', experiment_name=tmp_path.name)
    cfg.visualizer.name = tmp_path.name  # MMEngine keeps one visualizer per name and process
    return cfg


def train(cfg, prepare=lambda runner: None):
    """Train to the end; the work directory, the network and the warnings about reporting."""
    runner = build_runner(cfg, ['train_dataloader', 'val_dataloader'])
    prepare(runner)
    runner.train()
    (log,) = Path(runner.log_dir).glob('*.log')
    warnings = [line for line in log.read_text().splitlines() if 'WARNING' in line and 'cannot be' in line]
    folder = Path(cfg.work_dir)
    saved = load_checkpoint(folder / f'iter_{ITERATIONS}.pth')
    assert saved['meta']['iter'] == ITERATIONS
    assert all(torch.equal(tensor, saved['state_dict'][name]) for name, tensor in runner.model.state_dict().items())
    return folder, runner, warnings


def validate(runner):
    """Path to labels and predictions, flat, of each validation image."""
    runner.model.eval()
    with torch.no_grad():
        samples = [sample for data in runner.val_dataloader for sample in runner.model.val_step(data)]
    return {each.img_path: (each.gt_sem_seg.data.flatten(), each.pred_sem_seg.data.flatten()) for each in samples}


def iou_by_class(truth, predicted, ignore_index):
    """IoU of the classes that occur, counted pixel by pixel."""
    truth, predicted = truth[truth != ignore_index], predicted[truth != ignore_index]
    pairs = {name: (truth == label, predicted == label) for label, name in enumerate(SEMANTIC_CLASSES)}
    return {name: ((a & b).sum() / (a | b).sum()).item() for name, (a, b) in pairs.items() if (a | b).any()}


@pytest.mark.parametrize('ignore_index', [0, 11, 255])
def test_pixels_of_any_ignored_label_are_left_out(config, ignore_index):
    for path in (Path(config.train_dataloader.dataset.data_root) / 'semantic').rglob('*.png'):
        labels = np.array(Image.open(path))
        labels[:20] = ignore_index
        Image.fromarray(labels).save(path)
    for head in (config.model.decode_head, config.model.auxiliary_head):
        head.ignore_index = ignore_index
    config.model.data_preprocessor.seg_pad_val = config.val_evaluator.ignore_index = ignore_index
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.dataset.ignore_index = ignore_index
    folder, runner, warnings = train(config)
    results, images = json.loads((folder / 'results.json').read_text()), validate(runner)
    expected = iou_by_class(*map(torch.cat, zip(*images.values(), strict=True)), ignore_index)
    assert len(expected) > 2
    written = {name: value for name, value in results.items() if name.startswith('IoU/')}
    assert written == pytest.approx({f'IoU/{name}': 100 * iou for name, iou in expected.items()}, rel=1e-4)
    with (folder / 'images.csv').open() as file:
        qualities = {line['image']: float(line['quality']) for line in csv.DictReader(file)}
    assert qualities.keys() == images.keys()
    for path, maps in images.items():
        assert qualities[path] == pytest.approx(mean(iou_by_class(*maps, ignore_index).values()), abs=6e-5)
    assert Image.open(folder / 'gallery.png').size[0] > 400
    assert warnings == []


@pytest.mark.parametrize('module, name, lost', [
    (results_hook, 'draw_gallery', ['gallery.png']),
    (results_hook, 'image_quality', ['gallery.png', 'images.csv']),
    (results_hook, 'settings_of', ['run.json']),
    (path_weights, 'attention_share', []),
])  # fmt: skip
def test_an_error_of_reporting_loses_one_file_and_warns_once(config, monkeypatch, module, name, lost):
    calls = count(1)

    def fail(*_, **__):
        raise RuntimeError(f'failure {next(calls)}')  # MMEngine logs equal warnings once

    monkeypatch.setattr(module, name, fail)
    folder, _, warnings = train(config)
    (warning,) = warnings
    assert ('path weights' if module is path_weights else 'results') in warning
    assert warning.endswith('RuntimeError failure 1')
    reports = ('gallery.png', 'images.csv', 'results.json', 'results.md', 'run.json')
    assert [report for report in reports if not (folder / report).exists()] == lost


@pytest.mark.parametrize('full, kinds', [
    (['run.json', 'results.md', 'scalars.json'], ['results', 'scalars']),
    (['images.csv'], ['results']),
    (['gallery.png'], ['results']),
])  # fmt: skip
def test_a_disk_that_is_full_for_reports_warns_once_about_each_kind(config, full, kinds):
    def fill(runner):
        """Make the system refuse everything written under these names."""
        logs = Path(runner.log_dir) / 'vis_data'
        logs.mkdir(parents=True, exist_ok=True)
        for name in full:
            ((logs if name == 'scalars.json' else Path(config.work_dir)) / name).symlink_to('/dev/full')

    folder, _, warnings = train(config, fill)
    assert sorted(warning.partition(' cannot')[0].split()[-1] for warning in warnings) == kinds
    assert all('No space left on device' in warning for warning in warnings)
    assert 'IoU/background' in json.loads((folder / 'results.json').read_text())
