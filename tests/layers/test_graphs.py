"""What exporters, tracers and compilers make of X-volution, fused or not, and of LESA. For ACmix see its own tests."""

import pytest
import torch

from mmacmix.deploy import fuse
from mmacmix.layers import LESA, XVolution

LAYERS = {
    'XVolution': lambda: XVolution(16, 16, stride=2),
    'XVolution, fused': lambda: fuse(XVolution(16, 16, stride=2)),
    'LESA': lambda: LESA(16, 16, stride=2),
}


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('name', LAYERS)
def test_is_exported_for_maps_of_any_size(name, strict):
    layer, x = LAYERS[name]().eval(), torch.rand(2, 16, 17, 19)
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(layer, (x,), dynamic_shapes=[{0: free, 2: free, 3: free}], strict=strict).module()
    for shape in ((2, 16, 17, 19), (1, 16, 9, 30)):
        x = torch.rand(shape)
        torch.testing.assert_close(exported(x), layer(x))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('name', LAYERS)
def test_tracers_pass(name):
    layer, x = LAYERS[name]().eval(), torch.rand(1, 16, 9, 9)
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), layer(x))


@pytest.mark.parametrize('name', LAYERS)
def test_compiles_as_a_whole(name):
    layer, x = LAYERS[name](), torch.rand(2, 16, 9, 9)
    compiled = torch.compile(layer, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    leaves = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    if leaves:
        gradients = [torch.autograd.grad(each(x).square().sum(), leaves) for each in (compiled, layer)]
        torch.testing.assert_close(*gradients)
