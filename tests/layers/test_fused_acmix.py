"""FusedACmix gives the outputs of a layer and the normalisation after it."""

import pytest
import torch
from torch import nn

from mmacmix.layers import ACmix, FusedACmix
from tests.layers.definitions import randomised


@pytest.mark.parametrize('in_channels', [8, 160])
@pytest.mark.parametrize(
    'arguments',
    [
        dict(),
        dict(stride=2),
        dict(dilation=2, bias=True),
        dict(stride=2, dilation=3),
        dict(kernel_size=5, num_heads=2),
        dict(shift_form='depthwise'),
        dict(rates=(1, 0), learn_rates=False, bias=True),
        dict(rates=(0, 1), learn_rates=False),
    ],
)
@pytest.mark.parametrize('size', [(9, 12), (1, 2)])
def test_equals_the_layer_and_its_normalisation(in_channels, arguments, size):
    layer, norm = randomised(ACmix(in_channels, 16, **arguments)), randomised(nn.BatchNorm2d(16))
    x = torch.randn(2, in_channels, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(FusedACmix(layer, norm)(x), norm(layer(x)))
        torch.testing.assert_close(FusedACmix(layer)(x), layer(x))


@pytest.mark.parametrize('norm', [nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8, eps=0.1)])
def test_any_batch_normalisation_is_merged(norm):
    layer, norm = randomised(ACmix(8, 8)), randomised(norm)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(layer.fuse(norm)(x), norm(layer(x)))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_output_has_the_memory_format_of_the_input(memory_format):
    x = torch.rand(2, 8, 9, 7).contiguous(memory_format=memory_format)
    assert ACmix(8, 8).fuse()(x).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize('arguments', [dict(), dict(stride=2), dict(rates=(1, 0), learn_rates=False)])
def test_weights_keep_device_and_dtype(arguments):
    with torch.device('meta'):
        layer, norm = ACmix(8, 8, **arguments).half(), nn.BatchNorm2d(8)
    parameters = list(FusedACmix(layer, norm).parameters())
    assert {parameter.device.type for parameter in parameters} == {'meta'}
    assert {parameter.dtype for parameter in parameters} == {torch.float16}
