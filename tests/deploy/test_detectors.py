"""Whole detectors for export find what MMDetection's own heads find, and their files find the same in onnxruntime."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mmacmix.errors import UserError
from mmacmix.inference import build_model
from tests.conftest import needs_torch, tiny_config
from tests.tooling import ROOT, load

pytestmark = needs_torch('2.6', 'exporting a network')
SIZE = 119, 150  # not a multiple of 32
CONFIGS = {
    'Mask R-CNN': ('configs/shapes/mask-rcnn_acmix-r26_shapes.py', {}),
    'Cascade Mask R-CNN': (
        'configs/cascade_mask_rcnn/cascade-mask-rcnn_acmix-swin-t_fpn_ms-crop-1x_coco.py',
        dict(num_classes=3, test_cfg=dict(rcnn=dict(max_per_img=20))),
    ),
    'RetinaNet': ('configs/retinanet/retinanet_acmix-r50_fpn_1x_coco.py', {}),
}


def detector(name, **options):
    """A detector with random weights that finds objects of all classes."""
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / CONFIGS[name][0])
    cfg.model.backbone.init_cfg = None
    cfg.merge_from_dict(options)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for path, module in model.named_modules():
            last = path.rsplit('.', 1)[-1]
            if last in ('fc_cls', 'rpn_cls', 'retina_cls'):
                module.weight.normal_(0, 0.05)
                module.bias.fill_(-3 if last == 'retina_cls' else 0)
            elif last in ('fc_reg', 'rpn_reg', 'retina_reg'):
                module.weight.normal_(0, 0.02)
    return model


@pytest.mark.parametrize('name', CONFIGS)
def test_detectors_find_what_mmdetection_finds(name):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
    from mmdet.structures import DetDataSample

    from mmacmix.deploy.detectors import detect, difference
    from mmacmix.deploy.exporter import Exportable

    model = detector(name)
    image = (torch.rand(3, *SIZE) * 255).floor()
    sample = DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0)))
    with torch.no_grad():
        data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]), False)
        expected = model.predict(data['inputs'], data['data_samples'], rescale=True)[0].pred_instances
        found = detect(model, data['inputs'], SIZE)
    assert len(expected) >= 20 and len(expected.labels.unique()) > 2
    torch.testing.assert_close(found[:3], (expected.bboxes, expected.scores, expected.labels), rtol=0, atol=1e-4)
    assert (found.masks is None) == ('masks' not in expected)
    if found.masks is not None:
        pasted, _ = _do_paste_mask(found.masks[:, None], found.boxes, *SIZE, skip_empty=False)
        assert torch.equal(pasted >= 0.5, expected.masks)
    assert difference(found, Exportable(model, 'detector')(image[None])) < 1e-4  # normalises, pads and merges layers


def test_all_boxes_below_the_threshold_find_nothing():
    from mmacmix.deploy.exporter import Exportable

    model = detector('Mask R-CNN')
    model.roi_head.test_cfg.score_thr = 0.999
    boxes, scores, labels, masks = Exportable(model, 'detector')(torch.rand(1, 3, *SIZE) * 255)
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0,) and masks.shape == (0, 28, 28)


@pytest.mark.parametrize('smallest', [-1, 0, 40])
def test_small_proposals_are_left_out_as_configured(smallest):
    from mmacmix.deploy.detectors import _candidates

    model = detector('Mask R-CNN')
    head = model.rpn_head
    head.test_cfg.min_bbox_size = smallest
    maps = head(model.extract_feat(torch.rand(1, 3, 64, 64)))
    with torch.no_grad():
        boxes, scores, _, _ = _candidates(head, maps, head.test_cfg, (64, 64))
    sides = boxes[:, 2:] - boxes[:, :2]
    too_small = (sides <= smallest).any(1)
    assert torch.equal(scores == -1, too_small) and (smallest < 40 or 0 < too_small.sum() < len(boxes))


def test_heads_that_cannot_be_exported_are_named():
    from mmacmix.deploy.detectors import check_detector

    model = detector('Mask R-CNN')
    check_detector(model)
    model.roi_head.test_cfg.nms = dict(type='soft_nms', iou_threshold=0.5)
    with pytest.raises(UserError, match="the test_cfg of MaskRCNN has nms of type 'soft_nms'"):
        check_detector(model)
    model.roi_head.test_cfg.nms = dict(type='nms', iou_threshold=0.5)
    model.roi_head.mask_head = nn.Identity()
    with pytest.raises(UserError, match='the mask_head of MaskRCNN is a Identity; FCNMaskHead can be exported'):
        check_detector(model)
    with pytest.raises(UserError, match='Identity is neither a two-stage detector nor one with a single bbox_head'):
        check_detector(nn.Identity())


def detections(*rows):
    boxes, scores, labels = zip(*rows, strict=True)
    return torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), torch.tensor(labels)


def test_lists_of_detections_differ_by_scores_of_equal_objects():
    from mmacmix.deploy.detectors import difference

    one, other = [0, 0, 10, 10], [50, 50, 60, 90]
    both = detections((one, 0.9, 1), (other, 0.5, 2))
    assert difference(both, both) == 0
    swapped = detections((other, 0.52, 2), ([0, 0, 10, 10.1], 0.9, 1))
    assert difference(both, swapped) == pytest.approx(0.02, abs=1e-6)
    assert difference(both, detections((one, 0.9, 2), (other, 0.5, 2))) == pytest.approx(0.9)  # another label
    assert difference(both, detections((one, 0.9, 1))) == 0  # the other may lie below what is kept
    assert difference(both, detections((other, 0.5, 2))) == pytest.approx(0.9)
    nothing = [torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)]
    assert difference(nothing, nothing) == 0 and difference(both, nothing) == pytest.approx(0.9)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A small Mask R-CNN as an ONNX file for images of any size, and its network."""
    from mmacmix.deploy.exporter import Exportable, export
    from mmacmix.deploy.metadata import describe

    cfg = tiny_config('mmdet')
    torch.manual_seed(0)
    network = Exportable(build_model(cfg).eval(), 'detector')
    path = tmp_path_factory.mktemp('detector') / 'detector.onnx'
    classes = [f'class{label}' for label in range(cfg.model.roi_head.bbox_head.num_classes)]
    about = describe('detector', cfg.test_dataloader.dataset.pipeline, classes, [(255, 0, 0)] * len(classes))
    export(network, path, 'onnx', metadata=about)
    return network, path, about


@pytest.mark.slow
@pytest.mark.parametrize('size', [(119, 150), (256, 200), (64, 333)])
def test_files_find_the_same_at_any_size(exported, size):
    from mmacmix.deploy.exporter import difference, load

    network, path, _ = exported
    image = (torch.rand(1, 3, *size) * 255).floor()
    found = network(image)
    assert len(found[0]) > 10
    assert difference(network, load(path), image) < 1e-5


@pytest.mark.slow
def test_files_have_standard_operators_and_say_what_they_take(exported):
    import onnx

    _, path, about = exported
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {''} and not model.functions
    assert [each.name for each in model.graph.output] == ['boxes', 'scores', 'labels', 'masks']
    (metadata,) = [each.value for each in model.metadata_props if each.key == 'mmacmix']
    assert json.loads(metadata) == about and about['part'] == 'detector'


@pytest.mark.slow
def test_the_demo_draws_with_three_packages_alone(exported, tmp_path):
    import mmcv

    _, path, about = exported
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv'], check=True)
    python = tmp_path / 'venv' / 'bin' / 'python'
    pip = [sys.executable, '-m', 'pip', '--python', python, '--disable-pip-version-check', '--quiet', 'install']
    subprocess.run([*pip, 'numpy', 'onnxruntime', 'opencv-python-headless'], check=True)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    mmcv.imwrite(image, str(tmp_path / 'image.png'))
    command = [python, ROOT / 'demo' / 'onnx_inference.py', path, 'image.png', '--score-thr', '0.05']
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *objects, last = done.stdout.splitlines()
    assert last == 'drawn.png written.' and objects and {line.split()[0] for line in objects} <= {*about['classes']}
    drawn = mmcv.imread(tmp_path / 'drawn.png')
    assert drawn.shape == image.shape and (drawn != image).any()
    assert len((ROOT / 'demo' / 'onnx_inference.py').read_text().splitlines()) <= 80


def test_the_demo_pastes_masks_as_mmdetection_does():
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    demo = load('../demo/onnx_inference.py')
    mask = torch.nn.functional.interpolate(torch.rand(1, 1, 5, 5), size=(28, 28), mode='bicubic').clamp(0, 1)
    for box in ([20.3, 11.8, 77.1, 60.9], [-5.2, 30.0, 40.7, 130.5], [50.0, 50.0, 51.0, 53.0]):
        expected, _ = _do_paste_mask(mask, torch.tensor([box]), 100, 120, skip_empty=False)
        pasted = demo.paste(mask[0, 0].numpy(), box, (100, 120, 3))
        assert np.abs(pasted - expected[0].numpy()).max() < 0.03  # OpenCV's coordinates are multiples of 1/32


def test_the_demo_resizes_as_the_config_does():
    import mmcv

    demo = load('../demo/onnx_inference.py')
    image = np.random.default_rng(0).integers(0, 256, (431, 640, 3), dtype=np.uint8)
    for picture in (image, image.transpose(1, 0, 2).copy()):
        about = dict(scale=[300, 200], keep_ratio=True)
        assert np.array_equal(demo.resize(picture, about, ['h', 'w']), mmcv.imrescale(picture, (300, 200)))
    assert demo.resize(image, dict(scale=[300, 200], keep_ratio=False), ['h', 'w']).shape == (200, 300, 3)
    assert demo.resize(image, dict(scale=[300, 200], keep_ratio=True), [64, 96]).shape == (64, 96, 3)
    assert demo.resize(image, dict(scale=None, keep_ratio=False), ['h', 'w']) is image
