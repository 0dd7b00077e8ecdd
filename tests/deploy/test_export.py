"""Exported files compute what the networks compute."""

import pytest
import torch
from torch import nn

from mmacmix.deploy.export import Exportable, _AdaptiveAvgPool2d
from mmacmix.running import UserError, build_model
from tests.tooling import complaint, load
from tests.tools.test_infer import trained  # noqa: F401


@pytest.fixture
def model(trained):  # noqa: F811
    from mmengine.config import Config

    host, config, checkpoint, _ = trained
    network = build_model(Config.fromfile(config))
    network.load_state_dict(torch.load(checkpoint)['state_dict'])
    network.eval()
    return host, network


def test_the_parts_take_images_as_they_are(model):
    host, network = model
    image = torch.rand(1, 3, 96, 128) * 255
    with torch.no_grad():
        x = network.data_preprocessor(dict(inputs=[image[0]], data_samples=None), False)['inputs'].float()
        backbone, features = network.backbone(x), network.extract_feat(x)
        torch.testing.assert_close(Exportable(network, 'backbone')(image), list(backbone))
        torch.testing.assert_close(Exportable(network, 'features')(image), list(features))
        if host == 'mmseg':
            logits = network.encode_decode(x, [dict(img_shape=x.shape[2:])])
            torch.testing.assert_close(Exportable(network, 'segmentor')(image), [logits])
        else:
            with pytest.raises(ValueError, match='MaskRCNN is no segmentor'):
                Exportable(network, 'segmentor')
    assert any(isinstance(module, nn.AdaptiveAvgPool2d) for module in network.modules()) == (host == 'mmseg')


@pytest.mark.parametrize('sides', [(1, 1), (2, 3), (6, 6)])
@pytest.mark.parametrize('size', [(6, 7), (13, 4), (1, 9)])
def test_pooling_is_torchs(sides, size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(_AdaptiveAvgPool2d(sides)(x), nn.AdaptiveAvgPool2d(sides)(x))


@pytest.mark.slow
@pytest.mark.parametrize('form, suffix', [('onnx', 'onnx'), ('torch-export', 'pt2')])
def test_the_tool_writes_a_file_that_equals_the_network(trained, form, suffix, tmp_path, capsys):  # noqa: F811
    host, config, checkpoint, images = trained
    out = tmp_path / 'new' / f'network.{suffix}'
    arguments = [config, checkpoint, '--format', form, '--out', out, '--image', min(images.iterdir())]
    if host == 'mmseg' and form == 'torch-export':  # what docs/use.md says of networks with windows
        with pytest.raises(UserError, match='the file refuses images of'):
            load('export.py').main(list(map(str, arguments)))
        return
    load('export.py').main(list(map(str, arguments)))
    printed = capsys.readouterr().out
    assert f'{out}: {"segmentor" if host == "mmseg" else "features"}, ' in printed
    assert ('opset' in printed) == (form == 'onnx') and printed.count('file and network differ by') == 3
    if form == 'onnx':
        import onnx

        assert {node.domain for node in onnx.load(out).graph.node} <= {'', 'pkg.onnxscript.torch_lib'}


def test_mistakes_are_told_in_one_sentence(trained, tmp_path, capsys):  # noqa: F811
    host, config, checkpoint, _ = trained
    told = complaint('export.py', [config, checkpoint, '--out', 'a.pt2'], capsys)
    assert '--out of --format onnx is a .onnx file, got a.pt2' in told
    if host == 'mmdet':
        told = complaint('export.py', [config, checkpoint, '--part', 'segmentor', '--out', tmp_path / 'a.onnx'], capsys)
        assert 'MaskRCNN is no segmentor: what can be exported of it is backbone or features' in told
    told = complaint('export.py', [config, checkpoint, '--image', tmp_path / 'none.png'], capsys)
    assert 'none.png cannot be read as an image' in told
