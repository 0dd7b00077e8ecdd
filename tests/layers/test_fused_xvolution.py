"""Fused X-volution is one convolution, dynamic or plain, with the outputs of both branches."""

import numpy as np
import pytest
import torch
from torch import nn

from mmacmix.layers import FusedXVolution, XVolution, fused_xvolution
from tests.layers.definitions import randomised

CASES = [
    dict(),
    dict(stride=2, bias=True),
    dict(groups=2, dilation=2),
    dict(shift_distance=3, directions=((0, 0), (0, 1), (-1, 0))),
    dict(kernel_size=1),
    dict(kernel_size=5, shift_distance=2),
]


def trained(layer):
    """The layer after some steps of a regression in float32, with the statistics that training gives."""
    layer.train()
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    for _ in range(20):
        x = torch.randn(4, layer.in_channels, 9, 8)
        out = layer(x)
        loss = (out - x.mean(1, keepdim=True)[..., : out.shape[2], : out.shape[3]].roll(1, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return layer.eval()


def difference(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('relations, kind', [(True, FusedXVolution), (False, nn.Conv2d)])
@pytest.mark.parametrize(
    'prepare, dtype, bound',
    [(randomised, torch.float64, 1e-13), (randomised, torch.float32, 1e-5), (trained, torch.float32, 1e-5)],
)
@pytest.mark.parametrize('arguments', CASES)
def test_equals_both_branches(arguments, prepare, dtype, bound, relations, kind):
    layer = prepare(XVolution(8, 12, relations=relations, **arguments)).to(dtype)
    x = torch.randn(2, 8, 9, 7, dtype=dtype)
    with torch.no_grad():
        fused = layer.fuse()
        assert type(fused) is kind and fused.stride == layer.stride
        assert difference(fused(x), layer(x)) <= bound


@pytest.mark.parametrize('relations', [True, False])
def test_the_normalisation_after_the_layer_is_merged(relations):
    layer, norm = randomised(XVolution(8, 8, relations=relations, bias=True)), randomised(nn.BatchNorm2d(8))
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(layer.fuse(norm)(x), norm(layer(x)))


def test_the_kernel_is_the_sum_of_a_dynamic_and_a_static_part():
    layer, x = randomised(XVolution(3, 4, stride=2)), torch.randn(1, 3, 5, 6, dtype=torch.float64)
    fused, expected = layer.fuse(), layer(x)
    content, static = fused.kernel.split((len(fused.offsets), 9), 1)
    for row, column in np.ndindex(*expected.shape[2:]):
        pixel = x[0, :, 2 * row, 2 * column]
        out = fused.bias.clone()
        for offsets, kernel in ((fused.offsets, content * pixel), (fused.taps, static)):
            for tap, (down, right) in enumerate(offsets):
                y, z = 2 * row + down, 2 * column + right
                if 0 <= y < 5 and 0 <= z < 6:
                    out = out + kernel[:, tap] @ x[0, :, y, z]
        torch.testing.assert_close(out, expected[0, :, row, column])


@pytest.mark.parametrize('arguments', CASES)
def test_chunks_of_rows_give_the_same_output(arguments, monkeypatch):
    layer, x = randomised(XVolution(8, 12, **arguments)), torch.randn(2, 8, 9, 7, dtype=torch.float64)
    monkeypatch.setattr(fused_xvolution, '_ELEMENTS', 2 * 20 * 2 * 8 * 7)
    with torch.no_grad():
        torch.testing.assert_close(layer.fuse()(x), layer(x))


def test_a_single_convolution_runs(monkeypatch):
    fused, x, calls = XVolution(8, 8).fuse(), torch.randn(1, 8, 6, 6), []
    conv2d = nn.functional.conv2d
    monkeypatch.setattr(nn.functional, 'conv2d', lambda *args, **kwargs: calls.append(1) or conv2d(*args, **kwargs))
    fused(x)
    assert len(calls) == 1


def test_dynamic_part_with_zero_weights_is_left_out():
    layer, x = randomised(XVolution(8, 8)), torch.randn(1, 8, 6, 6, dtype=torch.float64)
    nn.init.zeros_(layer.attention_norm.weight)
    fused = layer.fuse()
    assert type(fused) is nn.Conv2d
    torch.testing.assert_close(fused(x), layer(x))


class Doubled(XVolution):
    """A subclass with other outputs."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda layer: setattr(layer, 'conv_norm', nn.InstanceNorm2d(8)), 'conv_norm is InstanceNorm2d'),
        (lambda layer: setattr(layer, 'attention_norm', nn.GroupNorm(2, 8)), 'attention_norm is GroupNorm'),
        (
            lambda layer: setattr(layer, 'conv_norm', nn.BatchNorm2d(8, track_running_stats=False)),
            'conv_norm is BatchNorm2d.*, not a batch normalisation with running statistics and without hooks',
        ),
        (lambda layer: layer.conv_norm.register_forward_hook(lambda *_: None), 'conv_norm is .* without hooks'),
        (lambda layer: setattr(layer, 'attention', nn.Conv2d(64, 8, 1)), 'attention is Conv2d.* without bias'),
        (lambda layer: setattr(layer.conv, 'padding_mode', 'reflect'), 'conv is Conv2d.* pads with zeros'),
        (lambda layer: layer.register_forward_hook(lambda *_: None), 'there are hooks'),
        (lambda layer: layer.conv.register_forward_pre_hook(lambda *_: None), 'there are hooks'),
        (lambda layer: setattr(layer, '__class__', Doubled), 'it is a subclass of XVolution'),
    ],
)
def test_layers_that_cannot_be_merged_exactly_are_refused(change, message):
    layer = XVolution(8, 8)
    change(layer)
    for refuse in (layer.check_fusable, layer.fuse):
        with pytest.raises(ValueError, match=rf'^\w+ cannot become one convolution exactly: .*{message}'):
            refuse()


@pytest.mark.parametrize('relations', [True, False])
def test_weights_keep_device_and_dtype(relations):
    layer = XVolution(8, 8, relations=relations).half()
    assert {parameter.dtype for parameter in layer.fuse().parameters()} == {torch.float16}
    with torch.device('meta'):
        layer = XVolution(8, 8, relations=False)
    assert {parameter.device.type for parameter in layer.fuse().parameters()} == {'meta'}
