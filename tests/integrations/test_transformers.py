"""The TimmBackbone of transformers takes the models of timm that this package registers."""

import subprocess
import sys

import pytest

from tests.tooling import ROOT, python

PACKAGES = ('transformers==5.24.0', 'tokenizers==0.23.3', 'regex==2026.11.19')


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason='transformers 5 needs Python 3.11')
def test_a_timm_backbone_returns_the_maps_of_ours(tmp_path):
    # In a folder of its own: it needs a newer regex than the locked one, and MMPretrain imports it where it finds it.
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', tmp_path, *PACKAGES]
    installed = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    done = python(
        f"""
        import sys
        sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]
        from tests.hosts import find_torchvision, randomize
        find_torchvision()
        """,
        """
        import torch
        from transformers import TimmBackbone, TimmBackboneConfig
        import mmacmix.integrations.timm
        from mmacmix.backbones import ACmixPyramidVisionTransformer, ACmixResNet, ACmixSwinTransformer

        images = torch.rand(2, 4, 64, 96)
        for name, ours in {
            'acmix_resnet26': ACmixResNet(26, in_channels=4, out_indices=(1, 3)),
            'acmix_swin_tiny': ACmixSwinTransformer('tiny', in_channels=4, out_indices=(1, 3)),
            'acmix_pvt_tiny': ACmixPyramidVisionTransformer('tiny', in_channels=4, out_indices=(1, 3), final_norm=True),
        }.items():
            theirs = TimmBackbone(TimmBackboneConfig(backbone=name, num_channels=4, out_indices=(1, 3))).eval()
            theirs._backbone.backbone.load_state_dict(randomize(ours).eval().state_dict())
            output = theirs(images)
            for expected, actual in zip(ours(images), output.feature_maps, strict=True):
                torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
            assert list(theirs.channels) == [each.shape[1] for each in output.feature_maps]
            assert list(theirs.out_features) == ['stage1', 'stage3']
        """,
    )
    assert done.returncode == 0, done.stderr
