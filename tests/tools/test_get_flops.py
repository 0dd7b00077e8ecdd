"""tools/get_flops.py: parts add up to the whole, the table shows published sizes, and mistakes are reported."""

import re

import pytest

from tests.tooling import ROOT, complaint, start


def get_flops(*arguments):
    done = start(ROOT / 'tools' / 'get_flops.py', *arguments, cwd=None)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_parts_of_a_detector_add_up():
    printed = get_flops(
        ROOT / 'configs/mask_rcnn/mask-rcnn_acmix-r26_fpn_1x_coco.py',
        '--shape', 64, 96, '--cfg-options', 'model.backbone.base_channels=8',
        'model.neck.in_channels=[32,64,128,256]',
    )  # fmt: skip
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    names = ('projections', 'attention', 'convolution', 'rest')
    for column in (0, 1):
        assert abs(sum(float(rows[name][column]) for name in names) - float(rows['all'][column])) < 0.003
    assert float(rows['convolution'][0]) > 0


def test_the_table_shows_all_backbones_next_to_the_published_sizes():
    printed = get_flops('--table')
    assert 'ACmix-ResNet-26           10.488       10.6          2.217        2.3' in printed
    assert re.search(r'X-volution-ResNet-50 +28\.709 +[\d.]+ *\n', printed)
    assert 'ACmix-SAN, ACmix-PVT and X-volution are reconstructions' in printed


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((), 'give a config, or --table'),
        (('nowhere.py',), 'there is no config at nowhere.py'),
        (('nowhere.py', '--shape', 0, 3), '--shape: must be positive, got 0'),
    ],
)
def test_mistakes_are_reported_in_one_sentence(arguments, message, capsys):
    assert message in complaint('get_flops.py', arguments, capsys)
