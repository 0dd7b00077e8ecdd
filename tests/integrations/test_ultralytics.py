"""Ultralytics builds, trains, loads and exports networks with ACmix."""

import subprocess
import sys

import pytest

from mmacmix.datasets import write_shapes
from tests.conftest import needs_torch
from tests.tooling import ROOT, python

# Without torchvision, matplotlib and the like, which the environment has, and without what Ultralytics imports when it
# is asked for.
PACKAGES = ('ultralytics==8.4.190', 'ultralytics-thop==2.2.3', 'polars==1.43.2', 'polars-runtime-32==1.43.2')

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ultralytics')
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', folder, *PACKAGES]
    installed = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    return folder


@pytest.fixture
def run(site, tmp_path):
    """Run code in a process of its own, in ``tmp_path``, with the installed package."""

    def run(code):
        done = python(
            f"""
            import os, sys
            os.chdir({str(tmp_path)!r})
            os.environ.update(YOLO_CONFIG_DIR={str(site)!r}, YOLO_AUTOINSTALL='false', OMP_NUM_THREADS='1')
            sys.path[:0] = [{str(ROOT)!r}, {str(site)!r}]
            from tests.hosts import find_torchvision
            find_torchvision()
            # torchvision's own operators do not load beside a CPU build of torch.
            import mmcv.ops, torchvision
            torchvision.ops.nms = lambda boxes, scores, threshold: mmcv.ops.nms(boxes, scores, threshold)[1]
            import torch
            from ultralytics import YOLO
            """,
            code,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_before_the_head_a_new_layer_keeps_the_outputs(run):
    run("""
        from mmacmix.integrations.ultralytics import ACmix, add_acmix
        from torch.utils._pytree import tree_flatten
        flat = lambda outputs: tree_flatten(outputs)[0]
        image = torch.rand(2, 3, 96, 64)
        for name in ('yolo11n', 'yolo11s', 'yolov8n', 'yolo26n', 'yolo11n-seg'):
            add_acmix(f'{name}.yaml', f'{name}-acmix.yaml')
            plain, ours = YOLO(f'{name}.yaml').model.eval(), YOLO(f'{name}-acmix.yaml').model.eval()
            last = len(plain.model) - 1
            layers = [type(layer) for layer in ours.model[last:-1]]
            assert layers == [ACmix] * 3
            # The layers of the backbone and the neck keep their numbers, so their weights load by name.
            ours.load_state_dict(plain.model[:-1].state_dict(prefix='model.'), strict=False)
            ours.model[-1].load_state_dict(plain.model[-1].state_dict())
            for expected, actual in zip(flat(plain(image)), flat(ours(image)), strict=True):
                torch.testing.assert_close(actual, expected, rtol=0, atol=0)
            for layer in ours.model[last:-1]:
                torch.nn.init.ones_(layer.residual_scale)
            assert not torch.equal(flat(plain(image))[0], flat(ours(image))[0])
    """)


def test_in_place_of_the_p3_block_the_others_keep_their_inputs(run):
    run("""
        from mmacmix.integrations.ultralytics import add_acmix

        def inputs(layer):
            sources = [layer.f] if isinstance(layer.f, int) else layer.f
            return [each if each >= 0 else layer.i + each for each in sources]

        for name in ('yolo11n', 'yolov8n', 'yolov5n', 'yolov9t', 'yolov10n', 'yolo26n-seg'):
            add_acmix(f'{name}.yaml', f'{name}-acmix.yaml', placement='p3')
            plain, ours = YOLO(f'{name}.yaml').model.model, YOLO(f'{name}-acmix.yaml').model.model
            p3 = plain[-1].f[0]
            conv, acmix = ours[p3 : p3 + 2]
            assert type(conv).__name__ == 'Conv' and inputs(conv) == inputs(plain[p3]) and inputs(acmix) == [p3]
            assert acmix.layer.num_heads == 2 and acmix.layer.attention_kernel_size == 5
            others = [layer for i, layer in enumerate(ours) if i != p3]  # one for each of the plain network
            for layer, other in zip(plain, others, strict=True):
                if layer.i not in (0, p3):
                    assert [others[each].i for each in inputs(layer)] == inputs(other), (name, layer.i)
                    assert [each.shape for each in layer.parameters()] == [each.shape for each in other.parameters()]
    """)


def test_a_network_is_trained_validated_exported_and_trained_further(run, tmp_path):
    write_shapes(tmp_path / 'shapes', train=16, val=8, size=64, yolo=True)
    quick = (
        "data='shapes/yolo.yaml', epochs=1, imgsz=64, batch=8, nbs=8, device='cpu', workers=0, plots=False, "
        'project=os.getcwd()'
    )
    run(f"""
        from mmacmix.integrations.ultralytics import add_acmix
        add_acmix('yolo11n.yaml', 'yolo11n-acmix.yaml', options=dict(num_heads=2))
        model = YOLO('yolo11n-acmix.yaml')
        scores = model.train({quick}, name='first', warmup_epochs=0)
        assert 0 <= scores.box.map50 <= 1
        scales = [p for name, p in model.model.named_parameters() if 'residual_scale' in name]
        assert len(scales) == 3 and all(scale.any() for scale in scales)  # they have been trained
    """)
    run(f"""
        import io, numpy, onnxruntime
        # Nothing is registered here but by the checkpoint itself.
        model = YOLO('first/weights/best.pt')
        image = torch.rand(1, 3, 64, 96)
        network = model.model.float().eval()
        for arguments in (dict(imgsz=(64, 96)), dict(imgsz=64, dynamic=True)):
            file = model.export(format='onnx', simplify=False, **arguments)
            session = onnxruntime.InferenceSession(file)
            (actual,) = session.run(None, {{session.get_inputs()[0].name: image.numpy()}})
            torch.testing.assert_close(torch.from_numpy(actual), network(image)[0], rtol=1e-4, atol=1e-3)
        YOLO('first/weights/best.pt').train({quick}, name='second')
    """)


@needs_torch('2.4', 'float16 on CPUs')
def test_half_precision_finds_the_same(run):
    run("""
        from mmacmix.integrations.ultralytics import add_acmix
        add_acmix('yolo11n.yaml', 'yolo11n-acmix.yaml', options=dict(num_heads=2))
        torch.manual_seed(0)
        network = YOLO('yolo11n-acmix.yaml').model.eval()
        for name, parameter in network.named_parameters():
            if 'residual_scale' in name:
                torch.nn.init.ones_(parameter)
        image = torch.rand(1, 3, 64, 96)
        expected = network(image)[0]
        half = network.half()(image.half())[0]
        assert half.dtype == torch.float16 and half.isfinite().all()
        torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=0.5)  # boxes in pixels
    """)


def test_a_head_may_name_its_maps_relative_to_itself(run):
    run("""
        from mmacmix.integrations.ultralytics import add_acmix
        from ultralytics.nn import tasks
        import yaml
        lines = tasks.yaml_model_load('yolo11n.yaml')
        lines['head'][-1][0] = [-7, -4, -1]
        yaml.safe_dump(lines, open('relative11.yaml', 'w'), sort_keys=False)
        for placement in ('head', 'p3'):
            add_acmix('yolo11.yaml', 'absolute.yaml', placement, dict(num_heads=2))
            add_acmix('relative11.yaml', 'relative.yaml', placement, dict(num_heads=2))
            first, second = (open(name).read() for name in ('absolute.yaml', 'relative.yaml'))
            assert '&' not in first
            # The line before may stay relative.
            assert first.partition('head:')[2] == second.partition('head:')[2].replace('20, -1]', '20, 23]')
    """)


def test_what_cannot_be_placed_is_refused_in_one_sentence(run):
    run("""
        from mmacmix.errors import UserError
        from mmacmix.integrations.ultralytics import add_acmix
        for arguments, message in (
            (('yolo11n.yaml', 'out.yaml', 'neck'), "placement must be 'head' or 'p3', got 'neck'"),
            (('yolo11n-cls.yaml', 'out.yaml'), 'yolo11n-cls.yaml: ACmix is placed before a head that reads several'),
            (('yolo11s.yaml', 'out.yaml'), "name of the file must have the scale 's', as in yolo11s.yaml, got 'out"),
        ):
            try:
                add_acmix(*arguments)
            except UserError as error:
                assert message in str(error), error
            else:
                raise AssertionError(message)
            assert not os.path.exists('out.yaml')
    """)
