"""ACmixNeck computes its definition on the chosen maps, starts as the identity, and joins a plain config's neck."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmacmix.layers import CONV_LAYERS, ACmix
from mmacmix.necks import ACmixNeck
from tests.tooling import ROOT

each_layer = pytest.mark.parametrize('layer', [layer.__name__ for layer in CONV_LAYERS])


def maps_of(channels=(16, 32, 16), sides=(9, 5, 3)):
    return [torch.randn(2, width, side, side + 1) for width, side in zip(channels, sides, strict=True)]


def neck_of(**arguments):
    return MODELS.build(dict(type='ACmixNeck', in_channels=[16, 32, 16]) | arguments)


@each_layer
def test_it_starts_as_the_identity_and_all_of_it_learns(layer):
    neck, maps = neck_of(layer=dict(type=layer)), maps_of()
    neck.init_weights()
    outs = neck(maps)
    assert isinstance(outs, tuple) and all(map(torch.equal, outs, maps))
    optimizer = torch.optim.SGD(neck.parameters(), 1.0)
    sum(out.sum() for out in outs).backward()
    optimizer.step()
    optimizer.zero_grad()
    sum(out.square().sum() for out in neck(maps)).backward()
    assert all(parameter.grad.any() for name, parameter in neck.named_parameters() if name.endswith('weight'))


@each_layer
@pytest.mark.parametrize('residual', [True, False])
def test_the_chosen_maps_pass_a_layer_each_and_the_others_do_not(layer, residual):
    neck, maps = neck_of(levels=(2, 0), layer=dict(type=layer), residual=residual).eval(), maps_of()
    layers = [module for module in neck.modules() if type(module).__name__ == layer]
    assert [module.in_channels for module in layers] == [16, 16]
    scales = [parameter for name, parameter in neck.named_parameters() if name.endswith('scale')]
    assert len(scales) == 2 * residual
    with torch.no_grad():
        for scale in scales:
            scale.normal_()
        first, second, third = neck(maps)
        expected = [layers[0](maps[0]), layers[1](maps[2])]
        if residual:
            expected = [
                x + torch.einsum('bchw,c->bchw', out, scale)
                for x, out, scale in zip(maps[::2], expected, scales, strict=True)
            ]
    assert second is maps[1]
    torch.testing.assert_close([first, third], expected)


def test_the_default_is_acmix_on_all_maps():
    neck = neck_of()
    assert [name for name, module in neck.named_modules() if isinstance(module, ACmix)] == [
        'levels.0.layer',
        'levels.1.layer',
        'levels.2.layer',
    ]


def test_other_registered_modules_are_taken_too():
    neck = neck_of(layer=dict(type='ContextBlock', ratio=0.25), residual=False)
    assert [out.shape for out in neck(maps_of())] == [x.shape for x in maps_of()]


def test_autocast_does_not_widen_the_maps():
    neck, maps = neck_of(), [x.bfloat16() for x in maps_of()]
    with torch.autocast('cpu', torch.bfloat16):
        assert {out.dtype for out in neck(maps)} == {torch.bfloat16}


@pytest.mark.parametrize('scope, kind', [('mmdet', 'FPN'), ('mmdet', 'PAFPN'), ('mmseg', 'FPN')])
def test_it_follows_the_necks_of_the_hosts(scope, kind):
    init_default_scope(scope)
    fpn = dict(type=kind, in_channels=[16, 32, 16], out_channels=16, num_outs=4)
    neck = MODELS.build([fpn, dict(type='ACmixNeck', in_channels=[16] * 4, levels=[1, 2])])
    maps = maps_of(sides=(16, 8, 4))
    outs = neck(maps)
    assert len(neck[1].levels) == 2 and isinstance(neck, nn.Sequential)
    assert all(map(torch.equal, outs, neck[0](maps)))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(in_channels=256), r'in_channels must be the channels of each map, such as \[256\] \* 5, got 256'),
        (dict(in_channels=[]), r'in_channels must be .*, got \[\]'),
        (dict(in_channels=[16, '16']), "in_channels must be a positive integer, got '16'"),
        (dict(levels=(0, 3)), r'levels must be different indices from 0 to 2, got \(0, 3\)'),
        (dict(levels=(-1,)), r'levels must be .*, got \(-1,\)'),
        (dict(levels=(1, 1)), r'levels must be .*, got \(1, 1\)'),
        (dict(levels=()), r'levels must be .*, got \(\)'),
        (dict(levels=1), 'levels must be .*, got 1'),
        (dict(layer=dict(type='ACmix', stride=2)), 'layer must be a dict without in_channels, out_channels, stride, '),
        (dict(layer='ACmix'), "layer must be a dict .*, got 'ACmix'"),
        (dict(in_channels=[16, 30]), 'out_channels must be a multiple of num_heads, got 30 and 4'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        neck_of(**arguments)


def test_another_number_of_maps_is_refused():
    with pytest.raises(ValueError, match='in_channels are those of 3 maps, but the neck got 2'):
        ACmixNeck([16, 32, 16])(maps_of()[:2])


def test_a_plain_config_gets_acmix_in_its_neck_by_the_lines_in_the_readme(tmp_path):
    from mmdet.testing import demo_mm_inputs

    snippets = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    (snippet,) = [snippet for snippet in snippets if 'ACmixNeck' in snippet]
    base, *added = snippet.splitlines()
    assert base.startswith("_base_ = 'mmdet::") and 1 <= len(added) <= 4
    path = tmp_path / 'own.py'
    path.write_text(snippet)
    cfg = Config.fromfile(path)
    cfg.model.backbone.update(init_cfg=None, base_channels=8)  # no download
    cfg.model.neck[0].in_channels = [32, 64, 128, 256]
    init_default_scope(cfg.default_scope)
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    layers = [name for name, module in detector.named_modules() if isinstance(module, ACmix)]
    assert layers and all(name.startswith('neck.1.') for name in layers)

    optimizer = torch.optim.SGD(detector.parameters(), 0.01)
    inputs = demo_mm_inputs(2, [[3, 64, 96], [3, 65, 64]])
    for _ in range(2):  # in the first step, only the scales learn
        optimizer.zero_grad()
        loss, _ = detector.parse_losses(detector(**detector.data_preprocessor(inputs, True), mode='loss'))
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    added = dict(detector.neck[1].named_parameters())
    assert all(parameter.any() for name, parameter in added.items() if name.endswith('scale'))
    assert all(parameter.grad.any() for name, parameter in added.items() if name.endswith('weight'))
    detector.eval()
    with torch.no_grad():
        results = detector(**detector.data_preprocessor(inputs, False), mode='predict')
    assert [len(each.pred_instances.bboxes) == len(each.pred_instances.scores) for each in results] == [True, True]
