"""Exported files predict, in the hosts' evaluation, what their networks predict."""

import pickle
import sys

import cv2
import numpy as np
import pytest
import torch

from mmacmix.deploy import export
from mmacmix.deploy.exported_model import ExportedModel, _paste
from mmacmix.errors import UserError
from tests.conftest import SINGLE, TINY, needs_torch
from tests.tooling import ROOT, complaint, load

pytestmark = needs_torch('2.6', 'exporting a network')


def predictions(host, arguments, out):
    """What tools/test.py writes: detections, or a map of classes per image."""
    out = out.with_suffix('.pkl') if host == 'mmdet' else out
    single = [f'{key}={value}' for key, value in SINGLE.items()]
    load('test.py').main([*map(str, arguments), '--out', str(out), '--cfg-options', *single])
    if host == 'mmdet':
        return pickle.loads(out.read_bytes())
    return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(out.iterdir())]


def assert_equal_detections(ours, theirs):
    from pycocotools import mask

    for one, other in zip(ours, theirs, strict=True):
        one, other = one['pred_instances'], other['pred_instances']
        assert len(one['scores']) > 10
        for key in ('scores', 'labels', 'bboxes'):
            torch.testing.assert_close(other[key], one[key], rtol=0, atol=1e-3)
        maps = [mask.decode(each['masks']) for each in (one, other)]
        assert maps[0].any() and (maps[0] != maps[1]).mean() < 1e-4


@pytest.mark.slow
def test_the_tool_evaluates_files_like_checkpoints(trained, tmp_path, monkeypatch):
    host, config, checkpoint, _ = trained
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'shapes').symlink_to(config.parent / 'shapes')
    monkeypatch.chdir(tmp_path)
    load('export.py').main([str(config), str(checkpoint), '--out', 'tiny.onnx'])
    ours, theirs = (
        predictions(host, [config, file], tmp_path / name) for name, file in (('a', checkpoint), ('b', 'tiny.onnx'))
    )
    assert len(ours) == 2
    if host == 'mmdet':
        assert_equal_detections(ours, theirs)
    else:
        assert np.unique(ours).size > 1 and np.mean(np.array(ours) != np.array(theirs)) < 1e-3


@pytest.mark.parametrize('box', [(3.2, 4.9, 20.1, 11.0), (-5.0, 2.0, 9.5, 40.0), (30.0, 3.0, 30.5, 9.0)])
def test_masks_are_pasted_as_in_mmdetection(box):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    mask, box = torch.rand(28, 28), torch.tensor(box)
    expected, _ = _do_paste_mask(mask[None, None], box[None], 24, 33, skip_empty=False)
    torch.testing.assert_close(_paste(mask, box, (24, 33)), expected[0], rtol=0, atol=1e-4)


def test_unsuitable_files_are_refused(tmp_path, capsys, monkeypatch):
    config, path = ROOT / TINY['mmdet'][0], tmp_path / 'network.onnx'
    path.write_bytes(b'no network')
    assert f'{path} cannot be run by onnxruntime: ' in complaint('test.py', [config, path], capsys)
    export(torch.nn.Conv2d(3, 4, 3), path, 'onnx', (8, 9))
    assert 'is neither a whole segmentor nor a whole detector' in complaint('test.py', [config, path], capsys)
    export(torch.nn.Conv2d(3, 4, 3), path, 'onnx', (8, 9), dict(part='segmentor'))
    assert '--fuse and --tta are for checkpoints' in complaint('test.py', [config, path, '--fuse'], capsys)
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, 'onnxruntime', None)
        assert f'{path} needs onnxruntime: pip install' in complaint('test.py', [config, path], capsys)
    with pytest.raises(UserError, match='takes images of 8x9 only, and the config resizes one to 8x10'):
        ExportedModel(path).test_step(dict(inputs=[torch.zeros(3, 8, 10)], data_samples=[None]))
