"""tools/convert_checkpoint.py: converted files load, failures write nothing, and differences are reported."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmacmix.backbones import ACmixResNet
from mmacmix.checkpoints import load_checkpoint
from mmacmix.datasets import write_shapes
from tests import golden
from tests.tooling import ROOT, complaint, load, own_words, start


def convert(*arguments):
    return start(ROOT / 'tools' / 'convert_checkpoint.py', *arguments, cwd=None)


def test_a_converted_file_loads_through_init_cfg(tmp_path):
    state_dict = {name: tensor.float() for name, tensor in golden.load('resnet26').state_dict.items()}
    torch.save(dict(model=state_dict, epoch=99), tmp_path / 'in.pth')
    done = convert('acmix-resnet', tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert done.returncode == 0, done.stderr
    assert 'Left out: the classifier' in done.stdout
    network = ACmixResNet(26, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'out.pth')))
    network.init_weights()
    assert torch.equal(network.layer1[0].conv2.query.weight, state_dict['layer1.0.conv2.conv1.weight'])


def test_a_failure_writes_nothing_and_names_the_keys(tmp_path):
    state_dict = golden.load('resnet26').state_dict
    del state_dict['bn1.weight']
    torch.save(state_dict, tmp_path / 'in.pth')
    done = convert('acmix-resnet', tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert done.returncode == 1
    assert own_words(done.stderr).strip() == (
        "convert_checkpoint.py: not a checkpoint of 'acmix-resnet': missing keys: bn1.weight"
    )
    assert [path.name for path in tmp_path.iterdir()] == ['in.pth']


def test_a_missing_output_folder_is_named(tmp_path):
    torch.save(golden.load('op_s1').state_dict, tmp_path / 'in.pth')
    done = convert('acmix', tmp_path / 'in.pth', tmp_path / 'absent' / 'out.pth')
    assert done.returncode == 1 and 'out.pth cannot be written: there is no folder' in done.stderr
    assert 'Traceback' not in done.stderr


def test_a_plain_resnet_is_approximated_and_refined_on_images(tmp_path, capsys):
    arguments = dict(depth=26, base_channels=16)
    plain = ACmixResNet(**arguments, stage_with_acmix=(False,) * 4)
    plain.init_weights()
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    write_shapes(tmp_path / 'shapes', train=3, val=1)
    images = tmp_path / 'shapes' / 'images' / 'train'
    command = ['resnet', tmp_path / 'plain.pth', tmp_path / 'out.pth', '--images', images]
    load('convert_checkpoint.py').main(list(map(str, command)))
    lines = capsys.readouterr().out.splitlines()
    titles, rows = lines[2].split(), [line.split() for line in lines[3:]]
    assert titles == ['kernel', 'output', 'output,', 'refined'] and [row[0] for row in rows][:2] == [
        'layer1.0.conv2', 'layer2.0.conv2'
    ]  # fmt: skip
    assert len(rows) == 8 and all(0 < float(row[3]) < float(row[2]) for row in rows)
    network = ACmixResNet(**arguments)
    network.load_state_dict(torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'])


@pytest.mark.parametrize('height, width', [(224, 224), (225, 450), (600, 300)])
def test_images_are_cropped_and_normalised(tmp_path, height, width):
    stripes = np.zeros((height, width, 3), np.uint8)
    stripes[..., 0] = 255
    Image.fromarray(stripes).save(tmp_path / 'red.png')
    (image,) = load('convert_checkpoint.py')._read_images(tmp_path, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert image.shape == (3, 224, 224)
    red = torch.tensor([(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375])
    torch.testing.assert_close(image, red[:, None, None].expand_as(image))


def test_unusable_images_are_reported(tmp_path, capsys):
    torch.save(ACmixResNet(26, base_channels=8, stage_with_acmix=(False,) * 4).state_dict(), tmp_path / 'in.pth')
    command = ['resnet', tmp_path / 'in.pth', tmp_path / 'out.pth', '--images', tmp_path]
    assert 'there is no image in' in complaint('convert_checkpoint.py', command, capsys)
    (tmp_path / 'broken.png').write_bytes(b'no image')
    assert 'broken.png cannot be read as an image' in complaint('convert_checkpoint.py', command, capsys)
    assert '--images is for resnet and open-nsfw' in complaint('convert_checkpoint.py', ['swin', *command[1:]], capsys)
    assert not (tmp_path / 'out.pth').exists()


def test_parts_that_are_left_out_and_added_are_reported(tmp_path, capsys):
    plain = {
        name: tensor
        for name, tensor in golden.load('swin_tiny').state_dict.items()
        if not any(part in name for part in ('rate1', 'rate2', '.fc.', 'dep_conv'))
    }
    torch.save(plain, tmp_path / 'in.pth')
    load('convert_checkpoint.py').main(['swin', str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth')])
    printed = capsys.readouterr().out
    assert 'Left out: the classifier' in printed and "Added: ACmix's convolution path, with rate 0." in printed


def test_a_safetensors_file_loads_through_init_cfg(tmp_path):
    state_dict = {name: tensor.float() for name, tensor in golden.load('resnet26').state_dict.items()}
    torch.save(state_dict, tmp_path / 'in.pth')
    load('convert_checkpoint.py').main(['acmix-resnet', str(tmp_path / 'in.pth'), str(tmp_path / 'out.safetensors')])
    assert load_checkpoint(tmp_path / 'out.safetensors')['meta'] == dict(source='acmix-resnet', format='pt')
    network = ACmixResNet(26, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'out.safetensors')))
    network.init_weights()
    assert torch.equal(network.layer1[0].conv2.query.weight, state_dict['layer1.0.conv2.conv1.weight'])


def test_a_checkpoint_of_this_package_changes_its_format_and_back(tmp_path):
    meta = dict(epoch=3, dataset_meta=dict(classes=['a', 'b']))
    state_dict = dict(a=torch.arange(6.0).view(2, 3).T, b=torch.tensor(True))
    torch.save(dict(state_dict=state_dict, meta=meta), tmp_path / 'in.pth')
    for source, target in (('in.pth', 'out.safetensors'), ('out.safetensors', 'back.pth')):
        load('convert_checkpoint.py').main(['mmacmix', str(tmp_path / source), str(tmp_path / target)])
    back = torch.load(tmp_path / 'back.pth', weights_only=True)
    assert back['meta'] == dict(epoch='3', dataset_meta=meta['dataset_meta'], format='pt')
    assert back['state_dict'].keys() == state_dict.keys()
    assert all(torch.equal(tensor, back['state_dict'][name]) for name, tensor in state_dict.items())
