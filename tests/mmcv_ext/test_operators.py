"""Compares the operators for mmcv-lite with recorded results of the compiled ones, and with definitions."""

import importlib.util
import pkgutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmacmix.errors import LibraryError
from mmacmix.mmcv_ext import operators
from mmacmix.mmcv_ext.__main__ import SOURCE, torchvision_version

from .cases import CASES, DEFINED, EXACT, RECORD, boxes, logits, normal, rois, uniform

try:
    TORCHVISION = bool(torchvision_version())
except LibraryError:
    TORCHVISION = False
WITHOUT_TORCHVISION = [name for name in CASES if 'soft_nms' in name]


@pytest.fixture
def stand_in(monkeypatch):
    """Makes mmcv's functions call the operators of this package, whichever are installed."""
    import mmcv.ops

    for module in pkgutil.iter_modules(mmcv.ops.__path__):
        module = importlib.import_module(f'mmcv.ops.{module.name}')
        if hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', operators)


def check(name):
    results, record = CASES[name](), np.load(RECORD)
    assert {f'{name}/{key}' for key in results} == {key for key in record if key.startswith(f'{name}/')}
    for key, value in results.items():
        tolerance = 0 if name.startswith(EXACT) or key == 'indices' else 1e-5
        np.testing.assert_allclose(value, record[f'{name}/{key}'], tolerance, tolerance, err_msg=key)


@pytest.mark.parametrize('name', CASES)
def test_installed_operators_give_what_compiled_ones_gave(name):
    check(name)


@pytest.mark.parametrize('name', CASES if TORCHVISION else WITHOUT_TORCHVISION)
def test_operators_of_the_package_give_what_compiled_ones_gave(name, stand_in):
    check(name)


def test_installed_operators_are_compiled_or_those_of_the_package():
    import mmcv._ext

    path = Path(mmcv._ext.__file__)
    assert path.suffix != '.py' or path.read_bytes() == SOURCE.read_bytes()


def test_nms_orders_more_boxes_than_half_precision_can_count(monkeypatch):
    seen = []
    vision = SimpleNamespace(nms=lambda boxes, scores, threshold: seen.append(scores) or torch.arange(len(scores)))
    monkeypatch.setattr(operators, '_vision', lambda: vision)
    operators.nms(torch.rand(3000, 4).half(), torch.rand(3000).half(), 0.5, 0)
    assert (seen[0].diff() < 0).all()


@pytest.mark.parametrize('name', DEFINED)
def test_operators_without_compiled_ones_on_cpus_follow_their_definitions(name, stand_in):
    case, definition = DEFINED[name]
    results, expected = case(), definition()
    assert results.keys() == expected.keys()
    for key, value in results.items():
        assert value.dtype == torch.float32
        np.testing.assert_allclose(value, expected[key], 1e-5, 1e-5, err_msg=key)


def test_focal_loss_weighs_rows_by_the_class_of_their_target(stand_in):
    case, definition = DEFINED['focal_loss']
    weight = uniform(30, 5)
    results, expected = case(weight), definition(torch.cat((weight, torch.ones(1))))
    for key, value in results.items():
        np.testing.assert_allclose(value, expected[key], 1e-5, 1e-5, err_msg=key)


def test_focal_loss_of_confident_half_precision_logits_is_finite(stand_in):
    case = DEFINED['focal_loss'][0]
    exact = case()
    for key, value in case(dtype=torch.bfloat16).items():
        assert value.dtype == torch.bfloat16
        torch.testing.assert_close(value.float(), exact[key], rtol=0.1, atol=0.1)
    from mmcv.ops import sigmoid_focal_loss

    extreme = (logits(torch.float16) * 100).requires_grad_()
    sigmoid_focal_loss(extreme, torch.arange(12) % 6).backward()
    assert extreme.grad.isfinite().all()


def test_soft_nms_leaves_its_inputs_as_they_are(stand_in):
    from mmcv.ops import soft_nms

    regions, scores = boxes(0, 30), uniform(1, 30)
    soft_nms(regions, scores)
    assert regions.equal(boxes(0, 30)) and scores.equal(uniform(1, 30))


def test_torchvision_computes_half_precision_in_single_precision(stand_in, monkeypatch):
    from mmcv.ops import deform_conv2d, roi_align

    class Vision:
        """Operators that record the types of the tensors passed to them."""

        def __getattr__(self, name):
            def operator(*args):
                seen.update(x.dtype for x in args if isinstance(x, torch.Tensor))
                result = torch.full((), 1 / 3)
                return (result,) * 5 if name == '_deform_conv2d_backward' else result

            return operator

    seen = set()
    monkeypatch.setattr(operators, '_vision', Vision)
    features, weight, offset = normal(0, 2, 4, 12, 10), normal(3, 5, 4, 3, 3), normal(2, 2, 18, 10, 8)
    for function, *inputs in (
        (lambda x, regions: roi_align(x, regions, (2, 2)), features, rois(1)),
        (deform_conv2d, features, offset, weight),
    ):
        half = [x.half().requires_grad_() for x in inputs]
        output = function(*half)
        output.sum().backward()
        assert output.dtype == torch.float16 and output.eq(torch.tensor(1 / 3).half()).all()
        assert half[0].grad.eq(torch.tensor(1 / 3).half()).all()
    assert seen == {torch.float32}


def test_roi_pool_without_regions(stand_in):
    from mmcv.ops import roi_pool

    features = normal(0, 2, 3, 12, 10).requires_grad_()
    output = roi_pool(features, torch.zeros(0, 5), (3, 2))
    output.sum().backward()
    assert output.shape == (0, 3, 3, 2) and not features.grad.any()


def test_a_missing_operator_says_how_to_get_it(stand_in):
    from mmcv.ops import CornerPool, nms_match, roi_align

    CornerPool('top')  # constructing does not call an operator
    with pytest.raises(NotImplementedError, match=r'^nms_match is not among .* `make setup MMCV=compiled` .*\.$'):
        nms_match(torch.zeros(1, 5), 0.5)
    with pytest.raises(NotImplementedError, match=r"^RoIAlign with pool_mode='max' is not among"):
        roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), (2, 2), 1.0, 0, 'max')
    assert not hasattr(operators, '__path__')
