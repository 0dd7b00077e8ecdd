import json
import logging
from types import SimpleNamespace

import numpy as np

from mmacmix.reporting import ResultsHook


def evaluate(folder, metrics, kind='val'):
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo={}))
    runner = SimpleNamespace(
        work_dir=str(folder),
        logger=logging.getLogger(),
        visualizer=None,
        val_dataloader=loader,
        test_dataloader=loader,
    )
    hook = ResultsHook()
    getattr(hook, f'before_{kind}_epoch')(runner)
    getattr(hook, f'after_{kind}_epoch')(runner, metrics)


def test_results_are_of_the_last_evaluation_even_if_it_found_nothing(tmp_path):
    evaluate(tmp_path, {'coco/bbox_mAP': 0.1234})
    assert '| coco/bbox_mAP | 0.123 |' in (tmp_path / 'results.md').read_text()
    evaluate(tmp_path, {})
    assert (tmp_path / 'results.md').read_text() == 'No metrics: the model found nothing.\n'
    assert json.loads((tmp_path / 'results.json').read_text()) == {}


def test_a_test_leaves_what_training_wrote(tmp_path):
    evaluate(tmp_path, {'mIoU': np.float32(50)})  # as some evaluators return it
    evaluate(tmp_path, {'mIoU': 60.0}, 'test')
    found = {path.name: json.loads(path.read_text())['mIoU'] for path in tmp_path.glob('*.json')}
    assert found == {'results.json': 50.0, 'test_results.json': 60.0}
