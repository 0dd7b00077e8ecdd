"""Guards that the generated data set is reproducible, consistent, varied and hard to shortcut."""

import hashlib
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from mmacmix.datasets import CLASSES, PALETTE, SEMANTIC_CLASSES, draw_scene, write_shapes


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes')
    write_shapes(folder, train=4, val=40)
    return folder


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_the_seed_determines_the_files(tmp_path):
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        write_shapes(tmp_path / name, train=2, val=1, seed=seed)
    assert digest(tmp_path / 'a') == digest(tmp_path / 'b')
    first, second = (digest(tmp_path / name)['images/train/000000.png'] for name in 'ac')
    assert first != second


def test_splits_differ_and_a_larger_split_starts_with_the_same_images(root, tmp_path):
    write_shapes(tmp_path, train=5, val=1)
    small, large = digest(root), digest(tmp_path)
    assert all(small[f'images/train/00000{i}.png'] == large[f'images/train/00000{i}.png'] for i in range(4))
    assert large['images/train/000000.png'] != large['images/val/000000.png']


def test_coco_annotations_agree_with_the_label_maps(root):
    coco = COCO(str(root / 'annotations' / 'instances_val.json'))
    assert [category['name'] for category in coco.dataset['categories']] == list(CLASSES)
    assert len(coco.imgs) == 40
    for image in coco.dataset['images']:
        semantic = np.array(Image.open(root / 'semantic' / 'val' / image['file_name']))
        assert semantic.shape == (image['height'], image['width'])
        rebuilt = np.ones_like(semantic)
        for annotation in coco.imgToAnns[image['id']]:
            mask = coco.annToMask(annotation).astype(bool)
            assert (rebuilt[mask] == 1).all()  # objects do not overlap
            rebuilt[mask] = annotation['category_id'] + 1
            ys, xs = mask.nonzero()
            assert annotation['bbox'] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert annotation['area'] == mask.sum() >= 60
        assert np.array_equal(rebuilt, semantic)


def test_labels_for_ultralytics_are_the_boxes_of_coco(root, tmp_path):
    write_shapes(tmp_path, train=4, val=40, yolo=True)
    plain, files = digest(root), digest(tmp_path)
    assert plain.items() <= files.items()
    assert len(files) == len(plain) + 4 + 40 + 1
    content = yaml.safe_load((tmp_path / 'yolo.yaml').read_text())
    assert content['names'] == list(CLASSES) and content['path'] == str(tmp_path)
    assert content['val'] == 'images/val'
    coco = COCO(str(tmp_path / 'annotations' / 'instances_val.json'))
    for image in coco.dataset['images']:
        labels = (tmp_path / 'labels' / 'val' / image['file_name']).with_suffix('.txt').read_text().splitlines()
        expected = coco.imgToAnns[image['id']]
        assert len(labels) == len(expected)
        for label, annotation in zip(labels, expected, strict=True):
            category, x, y, width, height = (float(each) for each in label.split())
            assert category == annotation['category_id'] - 1
            box = np.array([x - width / 2, y - height / 2, width, height]) * image['width']
            np.testing.assert_allclose(box, annotation['bbox'], atol=1e-3)


def test_labels_for_ultralytics_of_an_earlier_call_are_deleted(tmp_path):
    write_shapes(tmp_path, train=2, val=1, yolo=True)
    write_shapes(tmp_path, train=2, val=1, seed=1)
    assert not (tmp_path / 'yolo.yaml').exists() and not list(tmp_path.rglob('*.txt'))


def test_scenes_cover_all_classes_counts_and_sizes():
    scenes = [draw_scene(np.random.default_rng((0, i))) for i in range(120)]
    counts = np.array([len(scene.labels) for scene in scenes])
    areas = np.array([mask.sum() for scene in scenes for mask in scene.masks])
    assert (counts == 0).any() and (counts >= 8).any()
    assert areas.min() < 12**2 and areas.max() > 60**2
    assert set(np.concatenate([scene.labels for scene in scenes])) == set(range(len(CLASSES)))
    assert len(SEMANTIC_CLASSES) == len(CLASSES) + 1 == len(PALETTE) + 1


def test_colours_are_independent_of_the_class():
    """Mean colours of classes differ little, compared with the spread of single objects."""
    colours, labels = [], []
    for i in range(150):
        scene = draw_scene(np.random.default_rng((1, i)))
        labels += scene.labels.tolist()
        colours += [scene.image[mask].mean(0) for mask in scene.masks]
    colours, labels = np.array(colours), np.array(labels)
    means = np.array([colours[labels == label].mean(0) for label in range(len(CLASSES))])
    assert means.std(0).max() < 0.35 * colours.std(0).min()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(train=0), 'train must be an integer of at least 1, got 0'),
        (dict(size=32), 'size must be an integer of at least 64, got 32'),
        (dict(seed=-1), 'seed must be an integer of at least 0, got -1'),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_shapes(tmp_path / 'shapes', **arguments)
    assert not (tmp_path / 'shapes').exists()


def test_the_annotation_file_records_the_seed(root):
    assert json.loads((root / 'annotations' / 'instances_val.json').read_text())['info']['seed'] == 0
