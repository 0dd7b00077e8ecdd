import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tooling import complaint

ROOT = Path(__file__).parents[2]


def get_flops(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools/get_flops.py'), *map(str, arguments)], capture_output=True, text=True
    )


def test_parts_of_a_detector():
    done = get_flops(
        ROOT / 'configs/mask_rcnn/mask-rcnn_acmix-r26_fpn_1x_coco.py',
        '--shape', 64, 96, '--cfg-options', 'model.backbone.base_channels=8',
        'model.neck.in_channels=[32,64,128,256]',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    names = ('projections', 'attention', 'convolution', 'rest')
    for column in (0, 1):
        assert abs(sum(float(rows[name][column]) for name in names) - float(rows['all'][column])) < 0.003
    assert float(rows['convolution'][0]) > 0


def test_table_shows_all_backbones_beside_the_published_sizes():
    done = get_flops('--table')
    assert done.returncode == 0, done.stderr
    assert 'ACmix-ResNet-26           10.488       10.6          2.217        2.3' in done.stdout
    assert re.search(r'X-volution-ResNet-50 +28\.709 +[\d.]+ *\n', done.stdout)
    assert 'ACmix-SAN, ACmix-PVT and X-volution are reconstructions' in done.stdout


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((), 'give a config, or --table'),
        (('nowhere.py',), 'there is no config at nowhere.py'),
        (('nowhere.py', '--shape', 0, 3), '--shape takes two numbers of pixels, got 0 3'),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments, message, capsys):
    assert message in complaint('get_flops.py', arguments, capsys)
