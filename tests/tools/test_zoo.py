"""tools/zoo.py: what is committed is what it writes, and sizes are those of the networks."""

import json

import pytest
import yaml

from tests.tooling import ROOT, complaint, load

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


@pytest.mark.parametrize('name, images', [('yolox_tiny_plain', 1), ('upernet_acmix-swin', 2)])
def test_a_step_is_measured(zoo, name, images, capsys):
    zoo.main(['--step', str(ROOT / f'configs/shapes/{name}_shapes.py')])
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured['images'] == images
    assert 0 < measured['seconds'] < 60 and 2**27 < measured['memory'] < 2**34


def test_what_is_not_in_the_zoo_is_not_measured(capsys):
    assert complaint('zoo.py', ['--measure', 'setup.py'], capsys) == 'setup.py is not a config of the zoo'


def test_a_config_that_was_not_measured_has_empty_cells(zoo):
    facts = dict(size=(64, 64), parameters=1_000_000, macs=2_000_000_000)
    rows = zoo.readme_table({'a/b.py': facts | dict(images=2, seconds=1.5, memory=2**30), 'a/c.py': facts}, 'a CPU')
    assert '| [`b`](b.py) | 64x64 | 1.00 | 2.00 | 1.50 | 1.0 |' in rows and 'two images' in rows and 'a CPU' in rows
    assert '| [`c`](c.py) | 64x64 | 1.00 | 2.00 |  |  |' in rows


def test_metafiles_name_the_parts_of_the_networks():
    models = yaml.safe_load((ROOT / 'configs/rtmdet/metafile.yml').read_text())['Models']
    architectures = {model['Name']: model['Metadata']['Architecture'] for model in models}
    wanted = ['RTMDet', 'CSPNeXt', 'CSPNeXtPAFPN', 'ACmixNeck', 'ACmix']
    assert set(architectures['rtmdet_tiny_acmix-neck_8xb32-300e_coco']) == {*wanted, 'RTMDetSepBNHead'}
