"""The Penn-Fudan pedestrians as COCO annotations: what the masks say, in reproducible splits; mistakes are named."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mmacmix.datasets import write_penn_fudan
from mmacmix.errors import UserError
from tests.tooling import load

COUNT = 6


@pytest.fixture
def root(tmp_path):
    """Photographs in the published layout, each of another size and with another number of persons."""
    rng = np.random.default_rng(0)
    for folder in ('PNGImages', 'PedMasks'):
        (tmp_path / folder).mkdir()
    for index in range(COUNT):
        size = 40 + index, 60 - index
        name = f'FudanPed{index + 1:05d}'
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f'PNGImages/{name}.png')
        mask = np.zeros(size, np.uint8)
        for person in range(1, index + 1):
            mask[4 * person : 4 * person + 9, 5 * person : 5 * person + 3 + person] = person
        Image.fromarray(mask).save(tmp_path / f'PedMasks/{name}_mask.png')
    return tmp_path


def test_annotations_rebuild_the_masks(root, capsys):
    load('convert_pennfudan.py').main([str(root), '--splits', '2', '--val', '2'])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 and 'split1_val.json: 2 photographs with ' in printed[3]
    for split in range(2):
        seen = []
        for part, count in (('train', COUNT - 2), ('val', 2)):
            coco = COCO(str(root / f'annotations/split{split}_{part}.json'))
            assert len(coco.imgs) == count
            for image in coco.dataset['images']:
                seen.append(image['file_name'])
                mask = np.array(Image.open(root / 'PedMasks' / image['file_name'].replace('.png', '_mask.png')))
                assert mask.shape == (image['height'], image['width'])
                annotations = coco.imgToAnns[image['id']]
                rebuilt = np.zeros_like(mask)
                for person, annotation in enumerate(annotations, 1):
                    rebuilt[coco.annToMask(annotation) > 0] = person
                    ys, xs = (mask == person).nonzero()
                    assert annotation['bbox'] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
                    assert annotation['area'] == len(ys) and annotation['category_id'] == 1
                assert np.array_equal(rebuilt, mask)
        assert sorted(seen) == sorted(path.name for path in (root / 'PNGImages').iterdir())


def test_splits_are_reproducible_and_differ(root):
    def chosen(split):
        content = json.loads((root / f'annotations/split{split}_val.json').read_text())
        return [image['file_name'] for image in content['images']]

    write_penn_fudan(root, splits=3, val=3)
    first = [chosen(split) for split in range(3)]
    assert len(set(map(tuple, first))) > 1
    write_penn_fudan(root, splits=1, val=3)
    assert chosen(0) == first[0]


def test_mistakes_are_named(root, tmp_path):
    with pytest.raises(UserError, match='there are no photographs in .*PNGImages'):
        write_penn_fudan(tmp_path / 'absent')
    with pytest.raises(UserError, match='val must be between 1 and 5, as there are 6 photographs, got 50'):
        write_penn_fudan(root)
    mask = root / 'PedMasks/FudanPed00002_mask.png'
    Image.new('L', (3, 3)).save(mask)
    with pytest.raises(UserError, match='FudanPed00002_mask.png must be a map of 59x41 pixels'):
        write_penn_fudan(root, val=2)
    mask.unlink()
    with pytest.raises(UserError, match='FudanPed00002.png has no mask'):
        write_penn_fudan(root, val=2)
    assert not (root / 'annotations').exists()
