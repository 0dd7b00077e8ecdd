"""Exporters, tracers and compilers keep the outputs of layers and fused layers."""

import inspect

import onnxruntime
import pytest
import torch
from mmengine.analysis import get_model_complexity_info

from mmacmix import layers
from mmacmix.deploy import fuse
from mmacmix.layers import LESA, ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix, XVolution
from tests.conftest import needs_torch

LAYERS = {
    'ACmix': lambda: ACmix(16, 16),
    'ACmix, stride 2': lambda: ACmix(16, 16, stride=2),
    'ACmix, dilation 2': lambda: ACmix(16, 16, dilation=2),
    'ACmix, fused': lambda: fuse(ACmix(16, 16, stride=2)),
    'XVolution': lambda: XVolution(16, 16, stride=2),
    'XVolution, fused': lambda: fuse(XVolution(16, 16, stride=2)),
    'LESA': lambda: LESA(16, 16, stride=2),
}
ATTENTION = {
    'PatchwiseACmix': lambda: PatchwiseACmix(16, 16),
    'SpatialReductionACmix': lambda: SpatialReductionACmix(16, 2, 2),
    'WindowACmix': lambda: WindowACmix(16, 2, 4),
    'WindowACmix, shifted': lambda: WindowACmix(16, 2, 4, 2),
    'WindowACmix, shifted, on the original map': lambda: WindowACmix(16, 2, 4, 2, conv_on_rolled=False),
}


def test_every_layer_is_tested():
    exported = (getattr(layers, name) for name in layers.__all__)
    found = {each for each in exported if isinstance(each, type) and issubclass(each, layers.MixingLayer)}
    assert found - {layers.MixingLayer, layers.TwoPaths} <= {type(build()) for build in (LAYERS | ATTENTION).values()}


@needs_torch('2.6', 'exporting with sizes of any length')
@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('name', LAYERS | ATTENTION)
def test_is_exported_for_maps_of_any_size(name, strict):
    layer, free = (LAYERS | ATTENTION)[name]().eval(), torch.export.Dim.DYNAMIC
    channels = 3 if isinstance(layer, (SpatialReductionACmix, WindowACmix)) else 1
    dims = {dim: free for dim in range(4) if dim != channels}
    maps = [torch.rand(shape).movedim(1, channels) for shape in ((2, 16, 17, 19), (1, 16, 9, 30), (3, 16, 33, 20))]
    exported = torch.export.export(layer, (maps[0],), dynamic_shapes=[dims], strict=strict).module()
    for x in maps:
        torch.testing.assert_close(exported(x), layer(x))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('name', [*LAYERS, 'ACmix, factored'])
def test_is_traced(name):
    layer = LAYERS[name]() if name in LAYERS else ACmix(160, 160)
    shape = layer.in_channels if name == 'ACmix, factored' else 16, 9, 9
    x = torch.rand(1, *shape)
    layer.eval()
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), layer(x))
    assert get_model_complexity_info(layer, shape)['flops'] > 0


@pytest.mark.filterwarnings('ignore')  # this exporter is deprecated, but Ultralytics uses it
@pytest.mark.parametrize('name', [name for name in LAYERS if name != 'LESA'])  # which it exports for one size only
def test_the_exporter_of_torchscript_exports_maps_of_any_size(name, tmp_path):
    layer, file = LAYERS[name]().eval(), tmp_path / 'layer.onnx'
    old = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    axes = {'x': {0: 'batch', 2: 'height', 3: 'width'}}
    x = torch.rand(1, 16, 12, 10)
    torch.onnx.export(layer, (x,), str(file), input_names=['x'], dynamic_axes=axes, opset_version=17, **old)
    session = onnxruntime.InferenceSession(file)
    for shape in ((1, 16, 12, 10), (2, 16, 9, 30), (1, 16, 33, 20)):
        x = torch.rand(shape)
        (actual,) = session.run(None, {'x': x.numpy()})
        torch.testing.assert_close(torch.from_numpy(actual), layer(x))


@needs_torch('2.4', 'compiling without graph breaks')
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('name', LAYERS | ATTENTION)
def test_compiles_without_graph_breaks(name, memory_format):
    layer, x = (LAYERS | ATTENTION)[name](), torch.rand(2, 16, 9, 16).contiguous(memory_format=memory_format)
    compiled = torch.compile(layer, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    leaves = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    if leaves:
        gradients = [torch.autograd.grad(each(x).square().sum(), leaves) for each in (compiled, layer)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('name', LAYERS)
def test_scripting_is_refused_in_one_sentence(name):
    layer = LAYERS[name]()
    with pytest.raises(
        NotImplementedError, match=f'{type(layer).__name__} cannot be compiled by torch.jit.script; use'
    ):
        torch.jit.script(torch.nn.Sequential(layer))
