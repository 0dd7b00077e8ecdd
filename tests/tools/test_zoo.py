"""tools/zoo.py: what is committed is what it writes, and sizes are those of the networks."""

import json

import pytest
import yaml

from tests.tooling import ROOT, load

STORE = json.loads((ROOT / 'configs' / 'zoo.json').read_text())
SMALL = [
    'imagenet/acmix-r26_8xb32_in1k.py',
    'rtmdet/rtmdet_tiny_acmix-neck_8xb32-300e_coco.py',
    'shapes/mask-rcnn_acmix-r26_shapes.py',
    'yolox/yolox_tiny_acmix-p3_8xb8-300e_coco.py',
]


@pytest.fixture(scope='module')
def zoo():
    return load('zoo.py')


def test_readmes_and_metafiles_are_what_the_tool_writes(zoo):
    assert list(STORE['models']) == [str(path.relative_to(zoo.CONFIGS)) for path in zoo.config_files()]
    texts = zoo.written(STORE['models'], STORE['machine'])
    folders = {path.parent for path in zoo.config_files()}
    assert {path for path in texts if path.name == 'README.md'} == {folder / 'README.md' for folder in folders}
    for path, text in texts.items():
        assert path.read_text() == text, f'{path} is not up to date: run tools/zoo.py'


@pytest.mark.parametrize('name', SMALL)
def test_sizes_are_those_of_the_network(zoo, name):
    counted = zoo.count(ROOT / 'configs' / name)
    stored = STORE['models'][name]
    assert {key: stored[key] for key in ('parameters', 'macs')} == {key: counted[key] for key in ('parameters', 'macs')}
    assert stored['size'] == list(counted['size'])


def test_a_step_is_measured(zoo, capsys):
    zoo.main(['--step', str(ROOT / 'configs/shapes/yolox_tiny_plain_shapes.py')])
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < measured['seconds'] < 60 and 2**27 < measured['memory'] < 2**34


def test_metafiles_name_the_parts_of_the_networks():
    models = yaml.safe_load((ROOT / 'configs/rtmdet/metafile.yml').read_text())['Models']
    architectures = {model['Name']: model['Metadata']['Architecture'] for model in models}
    wanted = ['RTMDet', 'CSPNeXt', 'CSPNeXtPAFPN', 'ACmixNeck', 'ACmix']
    assert set(architectures['rtmdet_tiny_acmix-neck_8xb32-300e_coco']) == {*wanted, 'RTMDetSepBNHead'}
