"""tools/train.py and tools/test.py in real processes, with a tiny model on the generated data set."""

import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmacmix.datasets import SEMANTIC_CLASSES, write_shapes
from tests.tooling import ROOT, complaint, own_words, start

CONFIG = ROOT / 'configs' / 'shapes' / 'mask-rcnn_acmix-r26_shapes.py'
SEGMENTATION = ROOT / 'configs' / 'shapes' / 'upernet_acmix-swin_shapes.py'
SHORT = [
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'train_dataloader.batch_size=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.logger.interval=1',
]
TINY = ['model.backbone.base_channels=8', 'model.neck.in_channels=[32,64,128,256]', *SHORT]
TINY_SEGMENTOR = [
    'model.backbone.arch.embed_dims=8',
    'model.decode_head.in_channels=[8,16,32]',
    'model.auxiliary_head.in_channels=16',
    *SHORT,
]


def succeed(folder, tool, *arguments):
    done = start(ROOT / 'tools' / tool, *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A directory outside the checkout, with the data set and one finished training."""
    folder = tmp_path_factory.mktemp('outside')
    write_shapes(folder / 'data' / 'shapes', train=6, val=3)
    (snippet,) = re.findall(r'^visualizer = .*', (ROOT / 'docs' / 'use.md').read_text(), re.MULTILINE)
    (folder / 'own.py').write_text(f"_base_ = '{CONFIG}'\n{snippet}\n")
    succeed(folder, 'train.py', 'own.py', '--work-dir', 'run', '--cfg-options', *TINY)
    return folder


def test_tensorboard_gets_losses_scores_and_path_weights(folder):
    (events,) = (folder / 'run').rglob('events.out.tfevents.*')
    log = EventAccumulator(str(events)).Reload()
    for name in ('loss', 'coco/segm_mAP', 'path_weights/backbone.layer1.0.conv2/attention_share'):
        assert log.Scalars(name)[-1].value >= 0
    assert [event.step for event in log.Scalars('loss')] == [1, 2]


def test_training_leaves_checkpoint_table_and_gallery(folder):
    run = folder / 'run'
    assert (run / 'iter_2.pth').exists()
    metrics = json.loads((run / 'results.json').read_text())
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)
    assert 'coco/plain disc_precision' in metrics
    assert f'| coco/segm_mAP | {metrics["coco/segm_mAP"]:.3f} |' in (run / 'results.md').read_text()
    assert 'path_weights_over_time' in ' '.join(path.name for path in (run / 'report').iterdir())
    assert 'ACmixResNet' in (run / 'report.html').read_text()
    gallery = np.array(Image.open(run / 'gallery.png'))
    assert gallery.shape[0] > 2 * 400 and gallery.shape[1] > 6 * 400  # two rows of two samples, three panels each
    panels = gallery[:400, :400].astype(int), gallery[:400, 406:806].astype(int)
    assert abs(panels[0] - panels[1]).max() > 50  # something is drawn over the input


def test_training_too_short_for_its_log_succeeds_without_a_report(folder):
    options = [option for option in TINY if 'logger' not in option]
    done = succeed(folder, 'train.py', CONFIG, '--work-dir', 'short', '--cfg-options', *options)
    assert 'The report cannot be written: ' in done.stdout + done.stderr
    assert (folder / 'short' / 'iter_2.pth').exists() and not (folder / 'short' / 'report.html').exists()


def test_training_resumes_from_the_latest_checkpoint(folder):
    shutil.copytree(folder / 'run', folder / 'resumed')
    options = [option for option in TINY if 'max_iters' not in option]
    flags = ['--work-dir', 'resumed', '--resume', '--cfg-options', *options, 'train_cfg.max_iters=3']
    done = succeed(folder, 'train.py', CONFIG, *flags)
    assert 'Iter(train) [3/3]' in done.stdout and 'Iter(train) [2/3]' not in done.stdout
    assert (folder / 'resumed' / 'iter_3.pth').exists()


@pytest.mark.slow
def test_two_processes_train_and_test_on_the_cpu(folder):
    for command in (['dist_train.sh', CONFIG, '2'], ['dist_test.sh', CONFIG, 'two/iter_2.pth', '2']):
        done = subprocess.run(
            [ROOT / 'tools' / command[0], *command[1:], '--work-dir', 'two', '--cfg-options', *TINY],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'},
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert all((folder / 'two' / name).exists() for name in ('iter_2.pth', 'gallery.png', 'test_gallery.png'))
    for name in ('images.csv', 'test_images.csv'):  # one of the three images is evaluated by both processes
        assert len((folder / 'two' / name).read_text().splitlines()) == 1 + 3


def test_testing_writes_predictions_pictures_and_results(folder):
    flags = ['--work-dir', 'tested', '--out', 'predictions.pkl', '--show-dir', 'shown', '--cfg-options', *TINY]
    succeed(folder, 'test.py', CONFIG, 'run/iter_2.pth', *flags)
    assert len(pickle.loads((folder / 'predictions.pkl').read_bytes())) == 3
    assert json.loads((folder / 'tested' / 'test_results.json').read_text()).keys() >= {'coco/bbox_mAP'}
    assert len(list((folder / 'tested').rglob('shown/*.png'))) == 3


def test_a_fused_model_predicts_the_same(folder):
    results = []
    for name, flags in (('unfused', []), ('fused', ['--fuse'])):
        options = ['--work-dir', name, '--out', f'{name}.pkl', *flags, '--cfg-options', *TINY]
        done = succeed(folder, 'test.py', CONFIG, 'run/iter_2.pth', *options)
        results.append([each['pred_instances'] for each in pickle.loads((folder / f'{name}.pkl').read_bytes())])
    assert '8 of 8 layers of mmacmix are merged' in done.stdout
    for unfused, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused['scores'], unfused['scores'], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fused['bboxes'], unfused['bboxes'], rtol=1e-3, atol=1e-2)
        assert torch.equal(fused['labels'], unfused['labels'])


@pytest.mark.slow
def test_test_time_augmentation_changes_the_predictions_of_a_box_detector(folder):
    boxes_only = [
        *TINY,
        'model.roi_head.mask_head=None',
        'model.roi_head.mask_roi_extractor=None',
        'val_evaluator.metric=bbox',
        'test_evaluator.metric=bbox',
    ]
    succeed(folder, 'train.py', CONFIG, '--work-dir', 'boxes', '--cfg-options', *boxes_only)
    for name, flags in (('plain', []), ('augmented', ['--tta'])):
        flags += ['--work-dir', name, '--out', f'{name}.pkl', '--cfg-options', *boxes_only]
        succeed(folder, 'test.py', CONFIG, 'boxes/iter_2.pth', *flags)
    scores = [
        pickle.loads((folder / f'{name}.pkl').read_bytes())[0]['pred_instances']['scores']
        for name in ('plain', 'augmented')
    ]
    assert scores[0].shape != scores[1].shape or not torch.allclose(scores[0], scores[1])


@pytest.mark.slow
@pytest.mark.parametrize('host, config, tiny', [('mmdet', CONFIG, TINY), ('mmseg', SEGMENTATION, TINY_SEGMENTOR)])
def test_the_hosts_own_train_runs_and_resumes_the_config_outside_the_checkout(folder, host, config, tiny):
    tool = Path(importlib.import_module(host).__file__).parent / '.mim' / 'tools' / 'train.py'
    for last, flags in ((1, []), (2, ['--resume'])):
        options = [*tiny, f'train_cfg.max_iters={last}']
        done = succeed(folder, tool, config, '--work-dir', host, *flags, '--cfg-options', *options)
        assert (folder / host / f'iter_{last}.pth').exists()
    assert 'resumed epoch: 0, iter: 1' in done.stdout + done.stderr


def test_a_segmentor_is_trained_and_tested(folder):
    options = ['--work-dir', 'segmentor', '--cfg-options', *TINY_SEGMENTOR, 'train_dataloader.batch_size=2']
    succeed(folder, 'train.py', SEGMENTATION, *options)
    run = folder / 'segmentor'
    metrics = json.loads((run / 'results.json').read_text())
    classes = [value for name, value in metrics.items() if name.startswith('IoU/')]
    assert 'IoU/background' in metrics and metrics['mIoU'] == pytest.approx(np.mean(classes), abs=0.01)
    assert np.array(Image.open(run / 'gallery.png')).shape[0] > 2 * 400

    flags = ['--out', 'maps', '--show-dir', 'shown', '--tta']
    succeed(folder, 'test.py', SEGMENTATION, 'segmentor/iter_2.pth', *flags, *options)
    tested = json.loads((run / 'test_results.json').read_text())
    # A class that is neither in the truth nor predicted has no IoU, so that --tta may report other classes.
    maps_of_truth = sorted((folder / 'data/shapes/semantic/val').iterdir())
    labels = np.unique([np.array(Image.open(path)) for path in maps_of_truth])
    present = {f'IoU/{SEMANTIC_CLASSES[label - 1]}' for label in labels}
    assert present <= tested.keys() and present <= metrics.keys()
    maps = sorted((folder / 'maps').glob('*.png'))
    assert [path.name for path in maps] == [path.name for path in maps_of_truth]
    assert np.array(Image.open(maps[0])).shape == (128, 128)
    assert len(list((run / 'shown').rglob('*.png'))) == 3


@pytest.mark.parametrize('tool, arguments, message', [
    ('train.py', ['nothing.py'], 'there is no config at nothing.py'),
    ('train.py', [ROOT / 'configs' / 'maskrcnn_acmix.py'],
     'train_dataloader needs data/coco/annotations/instances_train2017.json, which does not exist in {folder}: '
     'get COCO 2017'),
    ('train.py', [CONFIG, '--cfg-options', 'model.backbone.dept=50'],
     'cannot be built (the config had no model.backbone.dept before --cfg-options): '),
    ('train.py', [CONFIG, '--cfg-options', 'modle.backbone.depth=50'],
     '--cfg-options: nothing reads modle.backbone.depth, and '),
    ('train.py', [CONFIG, '--cfg-options', 'iterations=2'],
     '--cfg-options: nothing reads iterations, and {config} uses it only to compute other settings'),
    ('train.py', [CONFIG, '--cfg-options', 'optim_wrapper.optimizer.lrr=1', *TINY],
     'cannot be built (the config had no optim_wrapper.optimizer.lrr before --cfg-options): '),
    ('train.py', [CONFIG, '--cfg-options', 'a=[1,2'], '--cfg-options cannot be read: '),
    ('train.py', [CONFIG, '--resume', '--work-dir', 'run'], 'iter_2.pth is a checkpoint of another model: shapes '),
    ('train.py', [CONFIG, '--cfg-options', 'load_from=other.pth'], 'other.pth is a checkpoint of another model: it '),
    ('train.py', [CONFIG, '--cfg-options', 'model'], "--cfg-options takes KEY=VALUE, got 'model'"),
    ('train.py', [CONFIG, '--cfg-options', 'train_cfg.max_iters.x=1'], '--cfg-options do not fit'),
    ('train.py', [CONFIG, '--resume', 'nothing.pth', '--cfg-options', *TINY], 'there is no checkpoint at nothing.pth'),
    ('train.py', [CONFIG, '--auto-scale-lr'], '--auto-scale-lr needs auto_scale_lr.base_batch_size'),
    ('test.py', [CONFIG, 'run/iter_2.pth'], 'run/iter_2.pth is a checkpoint of another model: shapes differ for '),
    ('test.py', [CONFIG, 'data/shapes/annotations/instances_val.json', '--cfg-options', *TINY],
     'instances_val.json cannot be read as a checkpoint: it was not written by torch.save'),
    ('test.py', [CONFIG, 'run/iter_2.pth', '--tta'], '--tta supports only boxes in MMDetection'),
    ('test.py', [CONFIG, 'run/iter_2.pth', '--out', 'x.json'], '--out must be a .pkl file for a detector, got x.json'),
])  # yapf: disable
def test_mistakes_are_reported_in_one_sentence(folder, monkeypatch, capsys, tool, arguments, message):
    monkeypatch.chdir(folder)
    torch.save(dict(state_dict=torch.nn.Linear(2, 3).state_dict()), 'other.pth')
    told = complaint(tool, ['--work-dir', 'mistake', *arguments], capsys)
    assert message.format(folder=folder, config=CONFIG) in told
    assert '\n' not in told


def test_a_mistake_ends_the_process_with_its_sentence(folder):
    done = start(ROOT / 'tools' / 'train.py', 'nothing.py', cwd=folder)
    assert (done.returncode, done.stdout) == (1, '')
    assert own_words(done.stderr) == 'train.py: there is no config at nothing.py\n'


def test_mixed_precision_without_a_gpu_is_refused(folder):
    done = start(ROOT / 'tools' / 'train.py', CONFIG, '--amp', cwd=folder, CUDA_VISIBLE_DEVICES='')
    assert done.stderr.strip().splitlines()[-1] == 'train.py: --amp needs a GPU, and torch finds none'
