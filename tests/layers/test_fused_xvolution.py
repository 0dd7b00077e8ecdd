import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmacmix.backbones import XVolutionResNet
from mmacmix.deploy import fuse
from mmacmix.layers import FusedXVolution, XVolution, fused_xvolution
from tests.deploy.test_fusion import shaken

CASES = [
    dict(),
    dict(stride=2, bias=True),
    dict(groups=2, dilation=2),
    dict(shift_distance=3, directions=((0, 0), (0, 1), (-1, 0))),
    dict(kernel_size=1),
    dict(kernel_size=5, shift_distance=2),
]


def trained(network, channels, size=(9, 8), steps=20):
    """After some steps of a regression, in float32: weights, statistics and their sizes as training leaves them."""
    torch.manual_seed(0)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for _ in range(steps):
        x = torch.randn(4, channels, *size)
        out = network(x)
        loss = (out - x.mean(1, keepdim=True)[..., : out.shape[2], : out.shape[3]].roll(1, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def difference(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('prepare', ['random', 'trained'])
@pytest.mark.parametrize('arguments', CASES)
def test_one_convolution_equals_both_branches(arguments, prepare):
    layer = XVolution(8, 12, **arguments)
    layer = shaken(layer).float() if prepare == 'random' else trained(layer, 8)
    x = torch.randn(2, 8, 9, 7)
    with torch.no_grad():
        expected = layer(x)
        fused = fuse(layer)
        assert isinstance(fused, FusedXVolution)
        assert difference(fused(x), expected) <= 1e-5


def test_the_kernel_is_the_contents_part_plus_the_learned_part():
    layer = shaken(XVolution(3, 4, stride=2))
    x = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)
        fused = fuse(layer)
    content, static = fused.kernel.split((len(fused.offsets), 9), 1)
    for row, column in np.ndindex(*expected.shape[2:]):
        pixel = x[0, :, 2 * row, 2 * column]
        out = fused.bias.clone()
        for offsets, kernel in ((fused.offsets, content * pixel), (fused.taps, static)):
            for place, (down, right) in enumerate(offsets):
                y, z = 2 * row + down, 2 * column + right
                if 0 <= y < 5 and 0 <= z < 6:
                    out = out + kernel[:, place] @ x[0, :, y, z]
        torch.testing.assert_close(out, expected[0, :, row, column])


@pytest.mark.parametrize('arguments', CASES)
def test_a_large_map_is_worked_through_by_some_rows_at_a_time(arguments, monkeypatch):
    layer, x = shaken(XVolution(8, 12, **arguments)), torch.randn(2, 8, 9, 7, dtype=torch.float64)
    monkeypatch.setattr(fused_xvolution, '_COLUMNS', 2 * 20 * 2 * 8 * 7)
    with torch.no_grad():
        expected = layer(x)
        torch.testing.assert_close(fuse(layer)(x), expected)


def test_one_kernel_is_applied(monkeypatch):
    layer, x = shaken(XVolution(8, 8)).float(), torch.randn(1, 8, 6, 6)
    applied = []
    conv2d = nn.functional.conv2d
    monkeypatch.setattr(nn.functional, 'conv2d', lambda *args, **kwargs: applied.append(1) or conv2d(*args, **kwargs))
    with torch.no_grad():
        fuse(layer)(x)
    assert len(applied) == 1


@pytest.mark.parametrize('prepare', ['random', 'trained'])
@pytest.mark.parametrize('arguments', CASES)
def test_without_relations_it_is_a_plain_convolution(arguments, prepare):
    layer = XVolution(8, 12, relations=False, **arguments)
    layer = shaken(layer).float() if prepare == 'random' else trained(layer, 8)
    x = torch.randn(2, 8, 9, 7)
    with torch.no_grad():
        expected = layer(x)
        fused = fuse(layer)
        assert type(fused) is nn.Conv2d and fused.stride == layer.stride
        assert difference(fused(x), expected) <= 1e-5
        exact = fuse(shaken(XVolution(8, 12, relations=False, **arguments)))
    assert exact.weight.dtype == torch.float64


def test_a_plain_convolution_is_exact():
    for arguments in CASES:
        layer, x = shaken(XVolution(8, 12, relations=False, **arguments)), torch.randn(2, 8, 9, 7, dtype=torch.float64)
        with torch.no_grad():
            expected = layer(x)
            assert difference(fuse(layer)(x), expected) <= 1e-14


def test_content_without_any_weight_is_left_out():
    layer, x = shaken(XVolution(8, 8)), torch.randn(1, 8, 6, 6, dtype=torch.float64)
    nn.init.zeros_(layer.attention_norm.weight)
    with torch.no_grad():
        expected = layer(x)
        fused = fuse(layer)
        assert type(fused) is nn.Conv2d
        torch.testing.assert_close(fused(x), expected)


@pytest.mark.parametrize('depth', [34, 50])
def test_a_backbone(depth):
    network = shaken(XVolutionResNet(depth, base_channels=8, norm_eval=False))
    images = torch.randn(2, 3, 61, 70, dtype=torch.float64)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1  # products of products grow without statistics that fit
    network.train()(images)
    network.eval()
    with torch.no_grad():
        expected = network(images)
        fused = fuse(network)
        assert not any(isinstance(module, (XVolution, nn.BatchNorm2d)) for module in fused.modules())
        for actual, each in zip(fused(images), expected, strict=True):
            torch.testing.assert_close(actual, each)


def test_a_conv_module_with_its_normalisation():
    module = shaken(ConvModule(8, 8, 3, padding=1, conv_cfg=dict(type='XVolution'), norm_cfg=dict(type='BN')))
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = module(x)
        fused = fuse(module)
        assert isinstance(fused.bn, nn.Identity)
        torch.testing.assert_close(fused(x), expected)


@pytest.mark.parametrize(
    'norm_cfg', [dict(type='IN', affine=True), dict(type='GN', num_groups=2), 'hook', 'statistics']
)
def test_what_cannot_be_merged_exactly_is_refused_and_stays_as_it_is(norm_cfg):
    layer = XVolution(8, 8, norm_cfg=norm_cfg if isinstance(norm_cfg, dict) else dict(type='BN'))
    if norm_cfg == 'hook':
        layer.conv_norm.register_forward_hook(lambda module, inputs, out: 2 * out)
    elif norm_cfg == 'statistics':
        layer.conv_norm = nn.BatchNorm2d(8, track_running_stats=False)
    network = nn.Sequential(XVolution(8, 8), nn.BatchNorm2d(8), layer)
    with pytest.raises(ValueError, match='XVolution cannot become one convolution exactly: (attention|conv)_norm is '):
        fuse(network)
    assert [type(module) for module in network] == [XVolution, nn.BatchNorm2d, XVolution]


class Doubled(XVolution):
    """Computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda layer: setattr(layer, 'attention', nn.Conv2d(64, 8, 1)), 'attention is Conv2d.* without bias'),
        (lambda layer: setattr(layer.conv, 'padding_mode', 'reflect'), 'conv is Conv2d.* pads with zeros'),
        (lambda layer: layer.register_forward_hook(lambda module, inputs, out: 2 * out), 'there are hooks'),
        (lambda layer: layer.conv.register_forward_pre_hook(lambda module, inputs: None), 'there are hooks'),
        (lambda layer: setattr(layer, '__class__', Doubled), 'it is a subclass of XVolution'),
    ],
)
def test_what_computes_something_else_is_refused_with_its_place(change, message):
    layer = XVolution(8, 8)
    change(layer)
    with pytest.raises(ValueError, match=rf'^0\.1: \w+ cannot become one convolution exactly: .*{message}'):
        fuse(nn.Sequential(nn.Sequential(nn.ReLU(), layer)))


def test_a_fused_layer_names_bad_inputs():
    fused = fuse(XVolution(8, 8))
    assert '8, 8, kernel_size=(3, 3)' in repr(fused)
    with pytest.raises(ValueError, match=r'takes \(B, 8, H, W\), H and W at least 1, got \(1, 3, 9, 9\)'):
        fused(torch.rand(1, 3, 9, 9))


def test_weights_keep_device_and_type():
    layer = XVolution(8, 8).half()
    assert {parameter.dtype for parameter in fuse(layer).parameters()} == {torch.float16}
    with torch.device('meta'):
        layer = XVolution(8, 8, relations=False)
    assert {parameter.device.type for parameter in fuse(layer).parameters()} == {'meta'}
