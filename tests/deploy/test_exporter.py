"""Exported files give the outputs of the networks, and ``tools/export.py`` checks that."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from mmacmix.backbones import (
    ACmixPyramidVisionTransformer,
    ACmixResNet,
    ACmixSwinTransformer,
    LESAResNet,
    XVolutionResNet,
)
from mmacmix.checkpoints import load_checkpoint
from mmacmix.deploy import fuse
from mmacmix.deploy.exportable import _AdaptiveAvgPool2d
from mmacmix.deploy.exporter import Exportable, Exported, export
from mmacmix.deploy.exporter import load as load_file
from mmacmix.deploy.metadata import describe
from mmacmix.errors import LibraryError, UserError
from mmacmix.inference import build_model
from tests.conftest import needs_torch
from tests.tooling import complaint, load


@pytest.fixture
def model(trained):
    from mmengine.config import Config

    host, config, checkpoint, _ = trained
    network = build_model(Config.fromfile(config))
    network.load_state_dict(load_checkpoint(checkpoint)['state_dict'])
    network.eval()
    return host, network


def test_parts_take_images_without_preprocessing(model):
    host, network = model
    network.double()  # merging changes rounding errors
    image = torch.rand(1, 3, 96, 128).mul(255).double()
    with torch.no_grad():
        x = network.data_preprocessor(dict(inputs=[image[0]], data_samples=None), False)['inputs']
        assert x.dtype == torch.float64
        backbone, features = network.backbone(x), network.extract_feat(x)
        torch.testing.assert_close(Exportable(network, 'backbone')(image), list(backbone))
        torch.testing.assert_close(Exportable(network, 'features')(image), list(features))
        if host == 'mmseg':
            logits = network.encode_decode(x, [dict(img_shape=x.shape[2:])])
            torch.testing.assert_close(Exportable(network, 'segmentor')(image), [logits])
        else:
            with pytest.raises(ValueError, match='MaskRCNN has no single decode head'):
                Exportable(network, 'segmentor')
    assert any(isinstance(module, nn.AdaptiveAvgPool2d) for module in network.modules()) == (host == 'mmseg')


@pytest.mark.parametrize('sides', [(1, 1), (2, 3), (6, 6)])
@pytest.mark.parametrize('size', [(6, 7), (13, 4), (1, 9)])
def test_pooling_equals_that_of_torch(sides, size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(_AdaptiveAvgPool2d(sides)(x), nn.AdaptiveAvgPool2d(sides)(x))


@needs_torch('2.6', 'exporting a network')
def test_upsampling_of_mmsegmentation_is_exported_for_any_size():
    from mmseg.models.utils import Upsample

    from mmacmix.deploy.exportable import _replace_upsampling

    network = nn.Sequential(Upsample(scale_factor=2, mode='bilinear', align_corners=False))
    maps = [torch.rand(2, 3, *size) for size in ((8, 10), (7, 13))]
    expected = [network(x) for x in maps]
    _replace_upsampling(network)
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(network, (maps[0],), dynamic_shapes=[{2: free, 3: free}]).module()
    torch.testing.assert_close([exported(x) for x in maps], expected)


@pytest.mark.slow
@needs_torch('2.6', 'exporting a network')
@pytest.mark.parametrize('form, suffix', [('onnx', 'onnx'), ('torch-export', 'pt2')])
def test_the_tool_writes_a_file_that_agrees_with_the_network(trained, form, suffix, tmp_path, capsys):
    host, config, checkpoint, images = trained
    out = tmp_path / 'new' / f'network.{suffix}'
    arguments = [config, checkpoint, '--format', form, '--out', out, '--image', min(images.iterdir())]
    load('export.py').main(list(map(str, arguments)))
    printed = capsys.readouterr().out
    whole = 'detector' if form == 'onnx' else 'features'
    assert f'{out}: {"segmentor" if host == "mmseg" else whole}, ' in printed
    assert ('opset' in printed) == (form == 'onnx') and printed.count('file and network differ by') == 3
    if form == 'onnx':
        import onnx

        assert {node.domain for node in onnx.load(out).graph.node} == {''}


@pytest.mark.slow
@needs_torch('2.6', 'exporting a network')
@pytest.mark.parametrize(
    'build',
    [
        lambda: ACmixResNet(26, base_channels=8),
        lambda: ACmixSwinTransformer(dict(embed_dims=8, depths=(2, 1, 1, 1), num_heads=(1, 1, 2, 2))),
        lambda: XVolutionResNet(26, base_channels=8),
        lambda: LESAResNet(26, base_channels=16),
    ],
    ids=['ACmixResNet', 'ACmixSwinTransformer', 'XVolutionResNet', 'LESAResNet'],
)
def test_files_for_one_size_agree_and_compute_no_indices(build, tmp_path):
    import onnx

    torch.manual_seed(0)
    network, path = fuse(build().eval(), dense=True), tmp_path / 'network.onnx'
    exported = export(network, path, 'onnx', (75, 98))
    assert exported.smallest == (75, 98)
    image = torch.rand(1, 3, 75, 98) * 255
    for ours, theirs in zip(network(image), load_file(path)(image), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4 * ours.abs().max().item())
    graph = onnx.load(path).graph
    assert not {node.op_type for node in graph.node} & {'Shape', 'Range', 'Mod'}
    assert [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 75, 98]


@pytest.mark.slow
@needs_torch('2.6', 'exporting a network')
def test_files_for_any_size_take_single_images_and_batches(tmp_path):
    torch.manual_seed(0)
    network = ACmixPyramidVisionTransformer(dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 40, 64)))
    network, path = fuse(network.eval(), dense=True), tmp_path / 'network.onnx'
    height, width = export(network, path, 'onnx').smallest
    for size in ((1, 3, height, width), (2, 3, 133, 218)):
        image = torch.rand(size) * 255
        for ours, theirs in zip(network(image), load_file(path)(image), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4 * ours.abs().max().item())


@needs_torch('2.6', 'exporting a network')
def test_whole_detectors_have_no_torch_format(trained, tmp_path):
    if trained[0] == 'mmdet':
        told = 'whole detectors can be exported to onnx only, not to torch-export'
        arguments = [*trained[1:3], '--part', 'detector', '--format', 'torch-export', '--out', tmp_path / 'a.pt2']
        with pytest.raises(UserError, match=told):
            load('export.py').main(list(map(str, arguments)))


def test_metadata_say_how_images_are_resized_and_name_the_classes():
    steps = [dict(type='LoadImageFromFile'), dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True)]
    about = describe('detector', steps, ('cat', 'dog'), [(1, 2, 3), np.array([4, 5, 6])])
    assert json.loads(json.dumps(about)) == dict(
        part='detector', classes=['cat', 'dog'], palette=[[1, 2, 3], [4, 5, 6]], scale=[1333, 800], keep_ratio=True
    )
    assert describe('segmentor', steps[:1], (), [])['scale'] is None
    assert describe('segmentor', [dict(type='Resize', scale=512)], (), [])['scale'] == [512, 512]


def test_an_older_torch_is_refused(monkeypatch):
    monkeypatch.setattr(torch, '__version__', TorchVersion('2.5.1'))
    with pytest.raises(LibraryError, match='^exporting a network needs torch 2.6 or newer, found 2.5.1.$'):
        export(nn.Identity(), 'never.onnx', 'onnx')


def test_a_file_that_refuses_an_image_or_differs_is_reported():
    tool, image = load('export.py'), np.zeros((8, 8, 3), np.uint8)

    def refusing(image):
        raise AssertionError('Guard failed: 7')

    network = type('Network', (), dict(part='backbone', __call__=lambda self, image: [image + 1]))()
    with pytest.raises(UserError, match='the file refuses images of 40x50: Guard failed: 7'):
        tool.compare(network, refusing, image, [(40, 50)])
    with pytest.raises(UserError, match='the outputs of file and network differ for images of 40x50'):
        tool.compare(network, lambda image: [image + 1.01], image, [(40, 50)])


@needs_torch('2.6', 'exporting a network')
def test_a_file_is_named_after_its_part_and_removed_if_it_differs(trained, tmp_path, monkeypatch, capsys):
    _, config, checkpoint, _ = trained
    tool, written = load('export.py'), []
    monkeypatch.chdir(tmp_path)

    def write(network, path, *_):
        written.append(str(path))
        path.touch()
        return Exported((64, 64), 20)

    monkeypatch.setattr(tool, 'export', write)
    monkeypatch.setattr(tool, 'load', lambda path: lambda image: [each + 1 for each in network(image)])
    monkeypatch.setattr(tool, 'Exportable', lambda model, part: network)
    network = type('Network', (), dict(part='backbone', __call__=lambda self, image: [image]))()
    for part in ([], ['--part', 'backbone']):
        with pytest.raises(UserError, match='the outputs of file and network differ'):
            tool.main([str(config), str(checkpoint), *part])
    assert written == ['tiny.onnx', 'tiny_backbone.onnx'] and not list(tmp_path.iterdir())


@needs_torch('2.6', 'exporting a network')
def test_mistakes_are_reported_in_one_sentence(trained, tmp_path, capsys):
    host, config, checkpoint, _ = trained
    told = complaint('export.py', [config, checkpoint, '--out', 'a.pt2'], capsys)
    assert '--out must be a .onnx file for --format onnx, got a.pt2' in told
    if host == 'mmdet':
        told = complaint('export.py', [config, checkpoint, '--part', 'segmentor', '--out', tmp_path / 'a.onnx'], capsys)
        assert 'MaskRCNN has no single decode head; export its backbone or features instead' in told
    told = complaint('export.py', [config, checkpoint, '--image', tmp_path / 'none.png'], capsys)
    assert 'none.png cannot be read as an image' in told
