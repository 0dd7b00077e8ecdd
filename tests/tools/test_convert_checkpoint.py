import subprocess
import sys
from pathlib import Path

import torch

from mmacmix.backbones import ACmixResNet
from tests import golden

TOOL = Path(__file__).parents[2] / 'tools' / 'convert_checkpoint.py'


def convert(*arguments):
    return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, check=False)


def test_converted_file_loads_through_init_cfg(tmp_path):
    state_dict = {name: tensor.float() for name, tensor in golden.load('resnet26').state_dict.items()}
    torch.save(dict(model=state_dict, epoch=99), tmp_path / 'in.pth')
    done = convert('acmix-resnet', tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert done.returncode == 0, done.stderr
    assert 'Left out: the classifier' in done.stdout
    network = ACmixResNet(26, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'out.pth')))
    network.init_weights()
    assert torch.equal(network.layer1[0].conv2.query.weight, state_dict['layer1.0.conv2.conv1.weight'])


def test_failure_writes_nothing_and_names_the_keys(tmp_path):
    state_dict = golden.load('resnet26').state_dict
    del state_dict['bn1.weight']
    torch.save(state_dict, tmp_path / 'in.pth')
    done = convert('acmix-resnet', tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "convert_checkpoint.py: not a checkpoint of 'acmix-resnet': missing keys: bn1.weight"
    )
    assert [path.name for path in tmp_path.iterdir()] == ['in.pth']


def test_unwritable_place_is_named(tmp_path):
    torch.save(golden.load('op_s1').state_dict, tmp_path / 'in.pth')
    done = convert('acmix', tmp_path / 'in.pth', tmp_path / 'absent' / 'out.pth')
    assert done.returncode == 1 and 'absent' in done.stderr and 'Traceback' not in done.stderr
