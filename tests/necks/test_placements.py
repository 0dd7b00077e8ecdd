"""Fusing, export, path weights and counts find a layer in a neck, in ``plugins`` and in place of convolutions."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmacmix.deploy.exporter import Exportable, export
from mmacmix.deploy.exporter import load as load_file
from mmacmix.layers import CONV_LAYERS, LESA, ACmix, XVolution
from mmacmix.reporting.complexity import model_complexity
from mmacmix.reporting.path_weights import observed_path_weights, path_weights_of
from tests.conftest import needs_torch
from tests.deploy.test_fusion import check_fused, fit_statistics
from tests.layers.definitions import randomised
from tests.necks.test_plugins import resnet

NAMES = {
    'neck.1.levels.0.layer': (16, 16),  # channels, and the map's side for images of 64 x 64 pixels
    'neck.1.levels.2.layer': (16, 4),
    'backbone.stage4.2.blocks.0.conv1.conv': (64, 2),
}


def detector(layer):
    """A RetinaNet with layers in its neck and in its backbone."""
    init_default_scope('mmdet')
    layer = dict(type=layer.__name__)
    cspnext = dict(type='CSPNeXt', deepen_factor=0.167, widen_factor=0.125, out_indices=(1, 2, 3, 4))
    fpn = dict(type='FPN', in_channels=[16, 32, 64, 128], out_channels=16, num_outs=5)
    return MODELS.build(
        dict(
            type='RetinaNet',
            data_preprocessor=dict(type='DetDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True),
            backbone=dict(type='ReplaceConvs', network=cspnext, where=r'stage4\..*conv1', layer=layer),
            neck=[fpn, dict(type='ACmixNeck', in_channels=[16] * 5, levels=(0, 2), layer=layer)],
            bbox_head=dict(type='RetinaHead', num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1),
        )
    )


class Features(nn.Module):
    """A detector's neck on its backbone."""

    def __init__(self, model):
        super().__init__()
        self.backbone, self.neck = model.backbone, model.neck

    def forward(self, images):
        return self.neck(self.backbone(images))


@pytest.mark.parametrize('layer', CONV_LAYERS)
def test_reports_find_every_layer(layer):
    network = Features(detector(layer))
    network.eval()
    images = torch.rand(1, 3, 64, 64)
    expected = [layer(channels).macs((1, channels, side, side)) for channels, side in NAMES.values()]
    parts = model_complexity(network, lambda: network(images))
    for part, numbers in zip(('projections', 'attention', 'convolution'), zip(*expected, strict=True), strict=True):
        assert parts[part].macs == sum(numbers)
    with observed_path_weights(network) as weights, torch.no_grad():
        network(images)
    assert set(weights) == set(NAMES) and all(0 < each.attention_share < 1 for each in weights.values())
    assert set(path_weights_of(network.state_dict())) == (set(NAMES) if layer is ACmix else set())


@pytest.mark.parametrize('layer', CONV_LAYERS)
def test_a_detector_is_fused(layer):
    network, images = Features(detector(layer)), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    randomised(network)
    fit_statistics(network, images)
    fused = check_fused(network, images)
    replaced = [name for name in NAMES if not isinstance(fused.get_submodule(name), layer)]
    assert replaced == ([] if layer is LESA else list(NAMES))
    block = fused.backbone.stage4[2].blocks[0]
    assert isinstance(block.conv1.bn, nn.Identity) == (layer is not LESA)


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('layer', [ACmix, XVolution])
def test_plugins_are_fused(layer, host):
    network, images = nn.Sequential(resnet(host, layer)), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    fit_statistics(randomised(network), images)
    assert not any(isinstance(module, layer) for module in check_fused(network, images).modules())


@needs_torch('2.6', 'exporting a network')
def test_features_of_a_detector_are_exported(tmp_path):
    network = Exportable(detector(ACmix), 'features')
    export(network, tmp_path / 'features.pt2', 'torch-export', size=(64, 96))
    image = torch.rand(1, 3, 64, 96) * 255
    torch.testing.assert_close(load_file(tmp_path / 'features.pt2')(image), network(image), rtol=1e-4, atol=1e-4)
