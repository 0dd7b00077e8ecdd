"""Data that is broken in one place: one sentence that names the file, or a count of what is left out."""

import json
import shutil
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from PIL import Image
from pycocotools.mask import encode

from mmacmix.datasets import CLASSES, annotations, write_shapes
from mmacmix.datasets.annotations import check_annotations
from mmacmix.datasets.files import DataError, check_files
from mmacmix.datasets.items import CheckedPipeline
from mmacmix.engine import build_runner, checked_runner
from mmacmix.errors import UserError
from mmacmix.inference import Predictor
from tests.conftest import TINY
from tests.tooling import ROOT

TRAIN = 'annotations/instances_train.json'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    write_shapes(folder / 'data' / 'shapes', train=3, val=2)
    return folder


@pytest.fixture
def place(whole, tmp_path, monkeypatch):
    """A copy of the data set, to break, in the working directory."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'data' / 'shapes'


def config(host, workers=0):
    path, options = TINY[host]
    cfg = Config.fromfile(ROOT / path)
    cfg.merge_from_dict(options)
    for loader in ('train_dataloader', 'val_dataloader'):
        cfg[loader].update(num_workers=workers, persistent_workers=False, batch_size=1)
    cfg.work_dir, cfg.launcher = 'run', 'none'
    return cfg


def load(host, loader, workers=0):
    """The data of a training or an evaluation, as tools/train.py and tools/test.py build it."""
    import_module(f'{host}.datasets')
    init_default_scope(host)
    return checked_runner(Runner).build_dataloader(config(host, workers)[f'{loader}_dataloader'], seed=0)


def edit(path, change):
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def shrink(path):
    Image.open(path).resize((64, 48), Image.Resampling.NEAREST).save(path)


def unlabel(path):
    labels = np.array(Image.open(path))
    labels[:9] = 77
    Image.fromarray(labels).save(path)


def complaint(action):
    with pytest.raises(UserError) as caught:
        action()
    assert '\n' not in str(caught.value)
    return str(caught.value)


def first_epoch(loader):
    for number, _ in enumerate(loader):
        if number == 4:  # samplers of training never end
            break


@pytest.mark.parametrize('host, loader, kind, break_it, message', [
    ('mmdet', 'train', 'images', cut, '{file} cannot be used: '),
    ('mmdet', 'val', 'images', lambda path: path.write_bytes(b''), '{file} cannot be used: '),
    ('mmdet', 'train', 'images', shrink, '{file} is 64x48 pixels, but its annotations are for 128x128'),
    ('mmseg', 'train', 'images', lambda path: path.write_text('no image'), '{file} cannot be used: '),
    ('mmseg', 'train', 'semantic', cut, '{file} cannot be read: '),
    ('mmseg', 'train', 'semantic', flip, '{file} cannot be read: broken PNG file'),
    ('mmseg', 'val', 'semantic', shrink, '{file} is 64x48 pixels, but its image is 128x128'),
    ('mmseg', 'train', 'semantic', shrink, '{file} is 64x48 pixels, but its image is 128x128'),
    ('mmseg', 'train', 'semantic', unlabel, '{file} has label 76, but labels must be 0 to 6'),
    ('mmseg', 'val', 'semantic', unlabel, '{file} has label 76, but labels must be 0 to 6'),
])  # yapf: disable
def test_a_broken_file_is_named(place, host, loader, kind, break_it, message):
    path = place / kind / loader / '000001.png'
    break_it(path)
    told = complaint(lambda: first_epoch(load(host, loader)))
    assert told.startswith(message.format(file=path.relative_to(place.parents[1])))


@pytest.mark.parametrize('host, kind', [('mmdet', 'images'), ('mmseg', 'semantic')])
def test_a_broken_file_is_named_by_workers_too(place, host, kind):
    cut(place / kind / 'val' / '000001.png')
    told = complaint(lambda: first_epoch(load(host, 'val', workers=2)))
    assert told.startswith(f'data/shapes/{kind}/val/000001.png cannot be ')


@pytest.mark.parametrize('host', TINY)
def test_whole_data_is_loaded(place, host):
    for loader in ('train', 'val'):
        first_epoch(load(host, loader))


@pytest.mark.parametrize('host, break_it, message', [
    ('mmdet', lambda place: cut(place / TRAIN), f'{TRAIN} is not a COCO annotation file: '),
    ('mmdet', lambda place: (place / TRAIN).write_text('[1]'), f'{TRAIN} is not a COCO annotation file: '),
    ('mmdet', lambda place: (place / 'images/train/000002.png').unlink(),
     f'data/shapes/images/train/000002.png does not exist: 1 of the 3 files that data/shapes/{TRAIN} names are missing'),
    ('mmdet', lambda place: edit(place / TRAIN, lambda content: content['annotations'][3].pop('bbox') and None),
     f'{TRAIN}: entry 3 of annotations, counting from 0, lacks bbox'),
    *(('mmdet', lambda place, change=change: edit(place / TRAIN, lambda content: change(content) and None),
       f'{TRAIN} is not a COCO annotation file: ') for change in [
        lambda content: content['annotations'][0].update(id=[1]),
        lambda content: content['images'][0].update(width='128'),
        lambda content: content['images'][0].update(file_name=5),
        lambda content: content['annotations'][0].update(bbox=[0, 0, 10**400, 1]),
    ]),
    ('mmseg', lambda place: (place / 'semantic/train/000002.png').unlink(),
     'data/shapes/semantic/train/000002.png does not exist: 1 of the 6 files that BaseSegDataset names are missing'),
    ('mmseg', lambda place: [path.rename(path.with_suffix('.bmp')) for path in (place / 'images/train').iterdir()],
     'data/shapes/images/train has no image ending in .png'),
])  # yapf: disable
def test_what_cannot_be_trained_on_ends_it_before_it_starts(place, host, break_it, message):
    break_it(place)
    assert message in complaint(lambda: load(host, 'train'))


def test_what_is_left_out_is_told(place, monkeypatch):
    notes = []
    monkeypatch.setattr(annotations, 'print_log', lambda note, *_: notes.append(note))
    edit(place / TRAIN, lambda content: content['annotations'][2].update(category_id=99))
    dataset = load('mmdet', 'train').dataset
    (note,) = notes
    assert note.startswith(f'data/shapes/{TRAIN}: 1 of ') and 'their category is not in the file' in note
    kept = sum(len(dataset.get_data_info(index)['instances']) for index in range(len(dataset)))
    assert kept == len(json.loads((place / TRAIN).read_text())['annotations']) - 1


@pytest.fixture
def content(whole):
    return json.loads((whole / 'data' / 'shapes' / TRAIN).read_text())


def check(content, classes=CLASSES, masks=True, test=False):
    return check_annotations(content, 'a.json', classes, masks, test)


def test_sound_annotations_have_no_notes(content):
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
])  # yapf: disable
def test_what_is_left_out_is_counted(content, change, reason):
    total = len(content['annotations'])
    for index in (1, 3):
        content['annotations'][index].update(change)
    (note,) = check(content)
    assert note.startswith(f'a.json: 2 of {total} annotations are ignored because {reason}') and note.endswith('(first id: 2)')
    for each in content['annotations']:
        each.update(change)
    assert complaint(lambda: check(content)).startswith(f'a.json: {total} of {total} annotations are ignored because {reason}')


@pytest.mark.parametrize('change, problem', [
    (dict(bbox=[float('nan'), 5, 9, 9]), 'annotation 2: bbox must be four finite numbers'),
    (dict(bbox=[5, 5, float('inf'), 9]), 'annotation 2: bbox must be four finite numbers'),
    (dict(bbox=[5, 5, 9]), 'annotation 2: bbox must be four finite numbers'),
    (dict(bbox=['5', 5, 9, 9]), 'annotation 2: bbox must be four finite numbers'),
    (dict(segmentation=[]), 'segmentation is missing, but masks are loaded'),
    (dict(segmentation=[[200, 5, 210, 5, 210, 9]]), 'lies outside the image'),
    (dict(segmentation=[[5, -9, 8, -9, 8, -1]]), 'lies outside the image'),
    (dict(segmentation=[[5, 5, float('nan'), 5, 8, 9]]), 'has coordinates that are not finite'),
    (dict(segmentation=[1, 2, 3, 4, 5, 6]), 'is neither a list of polygons nor a run-length code'),
    (dict(segmentation=dict(size=[64, 64], counts=[64 * 64])), 'has height and width [64, 64], but its image has [128, 128]'),
    (dict(segmentation=dict(size=[128, 128], counts=[10, 20])), 'needs non-negative runs of 16384 pixels, got 30'),
    (dict(segmentation=[[0, 0, 1e30, 0, 1e30, 1e30]]), 'lie far outside the image'),
    (dict(segmentation=dict(size=[128, 128], counts='')), 'needs non-negative runs of 16384 pixels, got 0'),
    (dict(segmentation=dict(size=[128, 128], counts='`0P`0')), 'needs non-negative runs of 16384 pixels, got '),
    (dict(segmentation=dict(size=[128, 128], counts=[-10, 128 * 128 + 10])), 'needs non-negative runs of 16384 pixels'),
    (dict(iscrowd='0'), "annotation 2: iscrowd must be 0 or 1, got '0'"),
    (dict(segmentation=dict(size=[128, 128])), 'is neither a list of polygons nor a run-length code'),
])  # yapf: disable
def test_what_cannot_be_used_is_named(content, change, problem):
    content['annotations'][1].update(change)
    told = complaint(lambda: check(content))
    assert told.startswith('a.json: ') and problem in told and 'annotation 2' in told
    if 'segmentation' in change:
        assert check(content, masks=False) == []


def test_a_polygon_that_reaches_over_the_border_is_sound(content):
    content['annotations'][1]['segmentation'] = [[-5, -5, 20, 5, 9, 30]]
    assert check(content) == []


@settings(deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200), seed=st.integers(0, 1000))
def test_the_runs_of_a_compressed_code_are_those_of_the_mask(height, width, seed):
    rng = np.random.default_rng(seed)
    pixels = (rng.random((height, width)) < rng.choice([0, 0.001, 0.1, 0.9])).flatten(order='F')
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    code = encode(np.asfortranarray(pixels.reshape((height, width), order='F'), np.uint8))['counts'].decode()
    assert annotations._decode_runs(code) == np.diff([0, *changes, height * width]).tolist()


def test_a_file_of_crowds_alone_is_refused(content):
    for annotation in content['annotations']:
        annotation['iscrowd'] = 1
    told = complaint(lambda: check(content))
    assert told == 'a.json has only crowd annotations, which training and evaluation ignore: add single objects'


@pytest.mark.parametrize('name', ['images', 'categories', 'annotations'])
def test_lists_are_there_and_have_ids_of_their_own(content, name):
    content[name][1]['id'] = content[name][0]['id']
    assert f'{name} have {len(content[name]) - 1} different ids' in complaint(lambda: check(content))
    del content[name]
    assert complaint(lambda: check(content)) == f'a.json is not a COCO annotation file: it has no list of {name}'


def test_no_annotations_are_told(content):
    content['annotations'] = []
    for test in (False, True):
        assert complaint(lambda test=test: check(content, test=test)) == 'a.json has no annotations'


def test_classes_are_numbered_as_in_the_file(content):
    few = [name for name in CLASSES if name != CLASSES[2]]
    (note,) = check(content, classes=few[:3])
    assert 'their category is not in the config' in note
    assert "class 0 is 'striped disc' in the config but 'plain disc' in a.json" in complaint(lambda: check(content, classes=CLASSES[1::-1]))
    assert "class 6 is 'cup' in the config" in complaint(lambda: check(content, classes=(*CLASSES, 'cup')))


def test_files_are_found_in_folders_of_folders(tmp_path):
    (tmp_path / 'a').mkdir()
    paths = [tmp_path / 'x', tmp_path / 'a' / 'x', tmp_path / 'b' / 'x']
    for path in paths[:2]:
        path.touch()
    check_files(map(str, paths[:2]), 'list')
    told = complaint(lambda: check_files(map(str, paths), 'list'))
    assert told == f'{paths[2]} does not exist: 1 of the 3 files that list names are missing'


def test_pixels_that_are_not_finite_are_named():
    def read(data):
        pixels = torch.rand(3, 8, 8)
        pixels[0, 0, 0] = data['pixel']
        return dict(inputs=pixels, data_samples=BaseDataElement())

    pipeline = CheckedPipeline(Compose([read]), 2)
    pipeline(dict(img_path='a.tif', pixel=0.5))
    for pixel in (float('nan'), float('inf')):
        told = complaint(lambda pixel=pixel: pipeline(dict(img_path='a.tif', pixel=pixel)))
        assert told == 'a.tif has pixels that are not finite'


def test_an_error_of_a_worker_is_the_same_sentence():
    assert str(DataError('Caught DataError in worker 0.\nTraceback:\nmmacmix.DataError: a.png is no image\n')) == (
        'a.png is no image'
    )


def test_a_training_whose_loss_is_not_finite_ends_and_its_weights_are_in_no_checkpoint(place):
    cfg = config('mmdet', workers=2)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.train_cfg.max_iters = 3
    built = build_runner(cfg, ['train_dataloader'])
    step = built.model.train_step

    def poisoned(data, optim_wrapper):
        log = step(data, optim_wrapper)
        return dict(log, loss=log['loss'] * (float('nan') if built.iter == 1 else 1))

    built.model.train_step = poisoned
    told = complaint(built.train)
    assert told.startswith('training stops: loss is not finite in iteration 2 for data/shapes/images/train/')
    assert told.endswith('/run/iter_1.pth') and 'the last checkpoint is ' in told
    with torch.no_grad():
        next(built.model.parameters()).view(-1)[0] = float('nan')
    told = complaint(lambda: built.save_checkpoint('run', 'iter_2.pth'))
    assert '1 weights are not finite' in told and told.endswith('/run/iter_1.pth')
    assert [path.name for path in (place.parents[1] / 'run').glob('*.pth*')] == ['iter_1.pth']


@pytest.mark.parametrize('image', [
    np.full((64, 64, 3), np.nan, np.float32), np.zeros((64, 64), np.uint8), np.zeros((0, 64, 3), np.uint8)
])  # yapf: disable
def test_a_predictor_takes_images_alone(trained, image):
    _, config, checkpoint, _ = trained
    predictor = Predictor(Config.fromfile(config), str(checkpoint))
    with pytest.raises(ValueError, match=r'image must be \(H, W, 3\) uint8, got '):
        predictor(image)
