"""COCO annotation files: unusable ones are refused with one sentence, and annotations left out are counted."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.mask import encode

from mmacmix.datasets import CLASSES, annotations, write_shapes
from mmacmix.datasets.annotations import check_annotations
from mmacmix.datasets.files import DataError


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes')
    write_shapes(folder, train=3, val=1)
    return (folder / 'annotations' / 'instances_train.json').read_text()


@pytest.fixture
def content(written):
    return json.loads(written)


def check(content, classes=CLASSES, masks=True, test=False):
    return check_annotations(content, 'a.json', classes, masks, test)


def complaint(*arguments, **named):
    with pytest.raises(DataError) as caught:
        check(*arguments, **named)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_valid_annotations_need_no_note(content):
    assert check(content) == []
    del content['annotations']
    assert check(content, test=True) == []


OUT = 'their box is empty or outside the image, although evaluation counts them'


@pytest.mark.parametrize('change, reason', [
    (dict(category_id=99), 'their category is not in the file'),
    (dict(image_id=99), 'their image is not in the file'),
    (dict(bbox=[5, 5, 0, 0]), OUT), (dict(bbox=[5, 5, 9, 0.5]), OUT), (dict(area=0), OUT),
    (dict(bbox=[128, 5, 9, 9]), OUT), (dict(bbox=[5, -9, 9, 9]), OUT),
    (dict(segmentation=[[1, 2, 3, 4]]), 'their polygons have fewer than three corners'),
    (dict(ignore=1), 'they are marked as ignored'),
])  # fmt: skip
def test_ignored_annotations_are_counted(content, change, reason):
    total = len(content['annotations'])
    for index in (1, 3):
        content['annotations'][index].update(change)
    (note,) = check(content)
    assert note.startswith(f'a.json: 2 of {total} annotations are ignored because {reason}')
    assert note.endswith('(first id: 2)')
    for each in content['annotations']:
        each.update(change)
    assert complaint(content).startswith(f'a.json: {total} of {total} annotations are ignored because {reason}')


@pytest.mark.parametrize('change, problem', [
    *((dict(bbox=bbox), 'annotation 2: bbox must be four finite numbers') for bbox in (
        [float('nan'), 5, 9, 9], [5, 5, float('inf'), 9], [5, 5, 9], ['5', 5, 9, 9])),
    (dict(segmentation=[]), 'segmentation is missing, but masks are loaded'),
    (dict(segmentation=[[200, 5, 210, 5, 210, 9]]), 'lies outside the image'),
    (dict(segmentation=[[5, -9, 8, -9, 8, -1]]), 'lies outside the image'),
    (dict(segmentation=[[5, 5, float('nan'), 5, 8, 9]]), 'has coordinates that are not finite'),
    (dict(segmentation=[1, 2, 3, 4, 5, 6]), 'is neither a list of polygons nor a run-length code'),
    (dict(segmentation=dict(size=[64, 64], counts=[64 * 64])),
     'has height and width [64, 64], but its image has [128, 128]'),
    (dict(segmentation=dict(size=[128, 128], counts=[10, 20])), 'needs non-negative runs of 16384 pixels, got 30'),
    (dict(segmentation=[[0, 0, 1e30, 0, 1e30, 1e30]]), 'lie far outside the image'),
    (dict(segmentation=dict(size=[128, 128], counts='')), 'needs non-negative runs of 16384 pixels, got 0'),
    (dict(segmentation=dict(size=[128, 128], counts='`0P`0')), 'needs non-negative runs of 16384 pixels, got '),
    (dict(segmentation=dict(size=[128, 128], counts=[-10, 128 * 128 + 10])), 'needs non-negative runs of 16384 pixels'),
    (dict(iscrowd='0'), "annotation 2: iscrowd must be 0 or 1, got '0'"),
    (dict(segmentation=dict(size=[128, 128])), 'is neither a list of polygons nor a run-length code'),
])  # fmt: skip
def test_invalid_annotations_are_named(content, change, problem):
    content['annotations'][1].update(change)
    message = complaint(content)
    assert message.startswith('a.json: ') and problem in message and 'annotation 2' in message
    if 'segmentation' in change:
        assert check(content, masks=False) == []


def test_a_polygon_across_the_border_is_valid(content):
    content['annotations'][1]['segmentation'] = [[-5, -5, 20, 5, 9, 30]]
    assert check(content) == []


@settings(deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200), seed=st.integers(0, 1000))
def test_a_compressed_code_decodes_to_the_runs_of_the_mask(height, width, seed):
    rng = np.random.default_rng(seed)
    pixels = (rng.random((height, width)) < rng.choice([0, 0.001, 0.1, 0.9])).flatten(order='F')
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    code = encode(np.asfortranarray(pixels.reshape((height, width), order='F'), np.uint8))['counts'].decode()
    assert annotations._decode_runs(code) == np.diff([0, *changes, height * width]).tolist()


def test_a_file_of_crowds_only_is_refused(content):
    for annotation in content['annotations']:
        annotation['iscrowd'] = 1
    assert (
        complaint(content)
        == 'a.json has only crowd annotations, which training and evaluation ignore: add single objects'
    )


@pytest.mark.parametrize('name', ['images', 'categories', 'annotations'])
def test_every_list_is_required_and_its_ids_are_unique(content, name):
    content[name][1]['id'] = content[name][0]['id']
    assert f'{name} have {len(content[name]) - 1} different ids' in complaint(content)
    del content[name]
    assert complaint(content) == f'a.json is not a COCO annotation file: it has no list of {name}'


def test_a_file_without_annotations_is_refused(content):
    content['annotations'] = []
    for test in (False, True):
        assert complaint(content, test=test) == 'a.json has no annotations'


def test_the_config_must_order_classes_as_the_file_does(content):
    few = [name for name in CLASSES if name != CLASSES[2]]
    (note,) = check(content, classes=few[:3])
    assert 'their category is not in the config' in note
    message = complaint(content, classes=CLASSES[1::-1])
    assert "class 0 is 'striped disc' in the config but 'plain disc' in a.json" in message
    assert "class 6 is 'cup' in the config" in complaint(content, classes=(*CLASSES, 'cup'))
