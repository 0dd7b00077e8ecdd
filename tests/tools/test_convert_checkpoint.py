import subprocess
import sys
from pathlib import Path

import torch

from mmacmix.backbones import ACmixResNet
from mmacmix.datasets import write_shapes
from tests import golden
from tests.tooling import complaint, load

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


def test_a_plain_resnet_is_approximated_and_refined_on_images(tmp_path, capsys):
    arguments = dict(depth=26, base_channels=16)
    plain = ACmixResNet(**arguments, stage_with_acmix=(False,) * 4)
    plain.init_weights()
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    write_shapes(tmp_path / 'shapes', train=3, val=1)
    load('convert_checkpoint.py').main(
        [
            'resnet',
            str(tmp_path / 'plain.pth'),
            str(tmp_path / 'out.pth'),
            '--images',
            str(tmp_path / 'shapes/images/train'),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    titles, rows = lines[2].split(), [line.split() for line in lines[3:]]
    assert titles == ['kernel', 'output', 'output,', 'refined'] and [row[0] for row in rows][:2] == [
        'layer1.0.conv2', 'layer2.0.conv2'
    ]  # fmt: skip
    assert len(rows) == 8 and all(0 < float(row[3]) < float(row[2]) for row in rows)
    network = ACmixResNet(**arguments)
    network.load_state_dict(torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'])
    images = load('convert_checkpoint.py')._read_images(tmp_path / 'shapes/images/train')
    assert images.shape == (3, 3, 224, 224) and images.mean().abs() < 1.5 and 0.2 < images.std() < 2


def test_images_that_are_none_are_told(tmp_path, capsys):
    torch.save(ACmixResNet(26, base_channels=8, stage_with_acmix=(False,) * 4).state_dict(), tmp_path / 'in.pth')
    command = ['resnet', tmp_path / 'in.pth', tmp_path / 'out.pth', '--images', tmp_path]
    assert 'there is no image in' in complaint('convert_checkpoint.py', command, capsys)
    (tmp_path / 'broken.png').write_bytes(b'no image')
    assert 'broken.png cannot be read as an image' in complaint('convert_checkpoint.py', command, capsys)
    assert '--images refines' in complaint('convert_checkpoint.py', ['swin', *command[1:]], capsys)
    assert not (tmp_path / 'out.pth').exists()


def test_what_is_left_out_and_added_is_told(tmp_path, capsys):
    plain = {
        name: tensor
        for name, tensor in golden.load('swin_tiny').state_dict.items()
        if not any(part in name for part in ('rate1', 'rate2', '.fc.', 'dep_conv'))
    }
    torch.save(plain, tmp_path / 'in.pth')
    load('convert_checkpoint.py').main(['swin', str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth')])
    printed = capsys.readouterr().out
    assert 'Left out: the classifier' in printed and "Added: ACmix's convolution path, at rate 0." in printed
