"""An evaluation writes its results into the work directory; errors while writing do not end the run."""

import json
import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from mmacmix.reporting import ResultsHook, guard, results_hook
from mmacmix.reporting.selection import Judged


def evaluate(folder, metrics, kind='val', samples=(), images=12, visualizer=None, hook=None):
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo={}))
    metric = SimpleNamespace()
    runner = SimpleNamespace(
        work_dir=str(folder),
        logger=logging.getLogger(),
        visualizer=visualizer,
        val_dataloader=loader,
        test_dataloader=loader,
        val_evaluator=SimpleNamespace(metrics=[metric]),
        test_evaluator=SimpleNamespace(metrics=[metric]),
    )
    hook = hook or ResultsHook(images)
    getattr(hook, f'before_{kind}_epoch')(runner)
    for index, sample in enumerate(samples):
        getattr(hook, f'after_{kind}_iter')(runner, index, outputs=[sample])
    getattr(hook, f'after_{kind}_epoch')(runner, metrics)


def test_results_are_those_of_the_last_evaluation_even_without_predictions(tmp_path):
    evaluate(tmp_path, {'coco/bbox_mAP': 0.1234})
    assert '| coco/bbox_mAP | 0.123 |' in (tmp_path / 'results.md').read_text()
    evaluate(tmp_path, {})
    assert (tmp_path / 'results.md').read_text() == 'No metrics: the model found nothing.\n'
    assert json.loads((tmp_path / 'results.json').read_text()) == {}


def test_a_test_keeps_the_results_of_the_training(tmp_path):
    evaluate(tmp_path, {'mIoU': np.float32(50)})  # some evaluators return NumPy numbers
    evaluate(tmp_path, {'mIoU': 60.0}, 'test')
    found = {path.name: json.loads(path.read_text())['mIoU'] for path in tmp_path.glob('*.json')}
    assert found == {'results.json': 50.0, 'test_results.json': 60.0}


def detected(folder, name, share, judged=True):
    """A sample whose prediction covers more than half of its object; the share is its quality."""
    Image.fromarray(np.full((40, 40, 3), 120, np.uint8)).save(folder / name)
    sample = DetDataSample(metainfo=dict(img_path=str(folder / name)))
    if judged:
        sample.gt_instances = InstanceData(
            labels=torch.zeros(1, dtype=torch.long), bboxes=torch.tensor([[0, 0, 40, 40.0]])
        )
    boxes, scores = torch.tensor([[0, 0, 40, 40 * share], [1, 1, 9, 9]]), torch.tensor([0.9, 0.1])
    sample.pred_instances = InstanceData(labels=torch.zeros(2, dtype=torch.long), bboxes=boxes, scores=scores)
    return sample


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of the gallery, instead of drawing it."""
    arguments = {}
    monkeypatch.setattr(
        results_hook, 'draw_gallery', lambda samples, *_, **options: arguments.update(options, samples=samples)
    )
    return arguments


def test_images_are_listed_from_worst_to_best_and_a_few_of_each_kind_are_shown(tmp_path, drawn):
    shares = [0.80, 0.60, 0.95, 0.70, 0.90, 0.65, 0.75]
    samples = [detected(tmp_path, f'{index}.png', share) for index, share in enumerate(shares)]
    evaluate(tmp_path, {}, samples=samples, images=3)
    assert drawn['captions'] == ['1.png: 0.60', '6.png: 0.75', '2.png: 0.95']  # the median is 0.75
    assert all(len(sample.pred_instances) == 1 for sample in drawn['samples'])  # without low scores
    assert len(samples[1].pred_instances) == 2
    lines = (tmp_path / 'images.csv').read_text().splitlines()
    assert lines[0] == 'image,quality' and lines[1].endswith('1.png,0.6000') and len(lines) == 8
    assert drawn['note'] == ''


@pytest.mark.parametrize('packed', [False, True], ids=['absent', 'as MMDetection packs none'])
def test_without_ground_truth_the_first_images_are_shown(tmp_path, drawn, packed):
    samples = [detected(tmp_path, f'{index}.png', 0.7, judged=False) for index in range(5)]
    for sample in samples if packed else []:
        sample.gt_instances = InstanceData()
    evaluate(tmp_path, {}, samples=samples, images=3)
    assert drawn['captions'] == ['0.png', '1.png', '2.png'] and not (tmp_path / 'images.csv').exists()


def test_images_without_objects_are_counted_instead_of_shown(tmp_path, drawn):
    samples = [detected(tmp_path, f'{index}.png', 0.8) for index in range(5)]
    for sample in samples[:3]:
        sample.gt_instances = sample.gt_instances[:0]
    samples[0].pred_instances = samples[0].pred_instances[:0]
    evaluate(tmp_path, {}, samples=samples)
    assert drawn['captions'] == ['3.png: 0.80', '4.png: 0.80']
    assert drawn['note'] == '3 of 5 images have no objects and are not shown; objects were predicted in 2 of them'


def test_images_of_all_processes_are_listed_and_shown(tmp_path, drawn, monkeypatch):
    # The other process evaluated two further images, and one of ours to have as many as we have.
    others = {str(tmp_path / name): quality for name, quality in (('a.png', 0.5), ('b.png', 0.99), ('0.png', 0.8))}
    candidates = [Judged(quality, SimpleNamespace(img_path=path)) for path, quality in others.items()]
    monkeypatch.setattr(results_hook, 'all_gather_object', lambda own: [own, own._replace(
        qualities=others, candidates=candidates)])  # fmt: skip
    own = [detected(tmp_path, f'{index}.png', share) for index, share in enumerate([0.8, 0.6, 0.95, 0.7])]
    evaluate(tmp_path, {}, samples=own, images=3)
    assert drawn['captions'] == ['a.png: 0.50', '3.png: 0.70', 'b.png: 0.99']
    listed = [line.split('/')[-1] for line in (tmp_path / 'images.csv').read_text().splitlines()[1:]]
    names = ('a.png', 0.5), ('1.png', 0.6), ('3.png', 0.7), ('0.png', 0.8), ('2.png', 0.95), ('b.png', 0.99)
    assert listed == [f'{name},{quality:.4f}' for name, quality in names]


def test_the_middle_is_that_of_images_with_objects(tmp_path, drawn):
    shares = [0.55, 0.6, 0.7, 0.8, 0.9]
    samples = [detected(tmp_path, f'{index}.png', share) for index, share in enumerate(shares)]
    for index in range(5, 15):  # nothing to find, but something predicted: of quality 0
        samples.append(detected(tmp_path, f'{index}.png', 0.8))
        samples[-1].gt_instances = samples[-1].gt_instances[:0]
    evaluate(tmp_path, {}, samples=samples, images=3)
    assert drawn['captions'] == ['0.png: 0.55', '2.png: 0.70', '4.png: 0.90']


def test_samples_are_kept_without_data_that_is_not_drawn(tmp_path, drawn):
    sample = SegDataSample(metainfo=dict(img_path=str(tmp_path / 'only.png')))
    sample.gt_sem_seg = sample.pred_sem_seg = PixelData(data=torch.zeros(1, 4, 4, dtype=torch.long))
    sample.seg_logits = PixelData(data=torch.rand(2, 4, 4))
    evaluate(tmp_path, {}, samples=[sample])
    assert set(drawn['samples'][0].keys()) == {'gt_sem_seg', 'pred_sem_seg'}
    drawn.clear()
    evaluate(tmp_path, {}, samples=[DetDataSample(metainfo=dict(img_path='only.png'))])  # as of a classifier
    assert drawn == {}


@pytest.fixture
def warnings(monkeypatch):
    messages = []
    monkeypatch.setattr(guard, 'print_log', lambda message, *_: messages.append(message))
    return messages


def fail(*_, **__):
    raise OSError(28, 'No space left on device')


def test_errors_are_logged_once_and_do_not_end_the_run(tmp_path, monkeypatch, warnings):
    hook = ResultsHook()
    monkeypatch.setattr(results_hook, 'draw_gallery', fail)
    for _ in range(2):
        evaluate(tmp_path, {'mIoU': 60.0}, samples=[detected(tmp_path, 'only.png', 0.8)], hook=hook)
    assert json.loads((tmp_path / 'results.json').read_text()) == {'mIoU': 60.0}
    assert warnings == ['results cannot be written, and the run continues: OSError [Errno 28] No space left on device']


def test_a_process_takes_part_in_collective_calls_after_an_error(tmp_path, monkeypatch, warnings):
    gathered = []
    monkeypatch.setattr(results_hook, 'all_gather_object', lambda own: gathered.append(own) or [own])
    for name in ('image_quality', 'count_parameters'):
        monkeypatch.setattr(results_hook, name, fail)
    monkeypatch.setattr(results_hook, 'FullyShardedDataParallel', SimpleNamespace)
    hook = ResultsHook()
    hook.before_train(SimpleNamespace(model=SimpleNamespace(), cfg=Config(), work_dir=str(tmp_path)))
    evaluate(tmp_path, {}, samples=[detected(tmp_path, 'only.png', 0.8)], hook=hook)
    assert len(gathered) == 2 and len(warnings) == 1


def test_the_gallery_is_drawn_without_random_numbers(tmp_path):
    artist = DetLocalVisualizer()
    artist.dataset_meta = dict(classes=('thing',), palette=[(255, 0, 0)])
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    evaluate(tmp_path, {}, samples=[detected(tmp_path, 'only.png', 0.8)], visualizer=artist)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert Image.open(tmp_path / 'gallery.png').size[1] > 400  # a caption below
