"""Corrupt images, maps and annotations end a run, early if possible, with one sentence that names the file."""

import json
import shutil
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from PIL import Image

from mmacmix.datasets import annotations, write_shapes
from mmacmix.datasets.files import DataError, check_files
from mmacmix.datasets.items import CheckedPipeline
from mmacmix.engine import build_runner, checked_runner
from mmacmix.errors import UserError
from mmacmix.inference import Predictor
from tests.conftest import SINGLE, TINY, tiny_config

TRAIN = 'annotations/instances_train.json'


@pytest.fixture(scope='module')
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp('intact')
    write_shapes(folder / 'data' / 'shapes', train=3, val=2)
    return folder


@pytest.fixture
def shapes(intact, tmp_path, monkeypatch):
    """A copy of the data set to corrupt, in ``data/shapes`` of the working directory."""
    shutil.copytree(intact, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'data' / 'shapes'


def load(host, part, workers=0):
    """The dataloader of a training or an evaluation, as tools/train.py and tools/test.py build it."""
    import_module(f'{host}.datasets')
    init_default_scope(host)
    cfg = tiny_config(host, SINGLE | {f'{part}_dataloader.num_workers': workers})
    return checked_runner(Runner).build_dataloader(cfg[f'{part}_dataloader'], seed=0)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


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


def load_batches(loader):
    for _ in islice(loader, 5):  # the sampler of a training is infinite
        pass


@pytest.mark.parametrize('host, part, kind, corrupt, message', [
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
])  # fmt: skip
def test_a_corrupt_file_is_named(shapes, host, part, kind, corrupt, message):
    corrupt(shapes / kind / part / '000001.png')
    file = f'data/shapes/{kind}/{part}/000001.png'
    assert complaint(lambda: load_batches(load(host, part))).startswith(message.format(file=file))


@pytest.mark.parametrize('host, kind', [('mmdet', 'images'), ('mmseg', 'semantic')])
def test_workers_name_a_corrupt_file_too(shapes, host, kind):
    cut(shapes / kind / 'val' / '000001.png')
    message = complaint(lambda: load_batches(load(host, 'val', workers=2)))
    assert message.startswith(f'data/shapes/{kind}/val/000001.png cannot be ')


@pytest.mark.parametrize('host', TINY)
def test_intact_data_is_loaded(shapes, host):
    for part in ('train', 'val'):
        load_batches(load(host, part))


def edited(change):
    """Corrupts an annotation file."""
    return lambda shapes: edit(shapes / TRAIN, change)


@pytest.mark.parametrize('host, corrupt, message', [
    *(('mmdet', corrupt, f'{TRAIN} is not a COCO annotation file: ') for corrupt in (
        lambda shapes: cut(shapes / TRAIN),
        lambda shapes: (shapes / TRAIN).write_text('[1]'),
        edited(lambda content: content['annotations'][0].update(id=[1])),
        edited(lambda content: content['images'][0].update(width='128')),
        edited(lambda content: content['images'][0].update(file_name=5)),
        edited(lambda content: content['annotations'][0].update(bbox=[0, 0, 10**400, 1])),
    )),
    ('mmdet', edited(lambda content: content['annotations'][3].pop('bbox')),
     f'{TRAIN}: entry 3 of annotations, counting from 0, lacks bbox'),
    ('mmdet', lambda shapes: (shapes / 'images/train/000002.png').unlink(),
     f'images/train/000002.png does not exist: 1 of the 3 files that data/shapes/{TRAIN} names are missing'),
    ('mmseg', lambda shapes: (shapes / 'semantic/train/000002.png').unlink(),
     'data/shapes/semantic/train/000002.png does not exist: 1 of the 6 files that BaseSegDataset names are missing'),
    ('mmseg', lambda shapes: [path.rename(path.with_suffix('.bmp')) for path in (shapes / 'images/train').iterdir()],
     'data/shapes/images/train has no image ending in .png'),
])  # fmt: skip
def test_unusable_data_is_refused_before_anything_is_loaded(shapes, host, corrupt, message):
    corrupt(shapes)
    assert message in complaint(lambda: load(host, 'train'))


def test_ignored_annotations_are_logged(shapes, monkeypatch):
    notes = []
    monkeypatch.setattr(annotations, 'print_log', lambda note, *_: notes.append(note))
    edit(shapes / TRAIN, lambda content: content['annotations'][2].update(category_id=99))
    dataset = load('mmdet', 'train').dataset
    (note,) = notes
    assert note.startswith(f'data/shapes/{TRAIN}: 1 of ') and 'their category is not in the file' in note
    kept = sum(len(dataset.get_data_info(index)['instances']) for index in range(len(dataset)))
    assert kept == len(json.loads((shapes / TRAIN).read_text())['annotations']) - 1


def test_files_are_found_in_nested_folders(tmp_path):
    (tmp_path / 'a').mkdir()
    paths = [tmp_path / 'x', tmp_path / 'a' / 'x', tmp_path / 'b' / 'x']
    for path in paths[:2]:
        path.touch()
    check_files(map(str, paths[:2]), 'list')
    message = complaint(lambda: check_files(map(str, paths), 'list'))
    assert message == f'{paths[2]} does not exist: 1 of the 3 files that list names are missing'


def test_pixels_that_are_not_finite_are_named():
    def read(data):
        pixels = torch.rand(3, 8, 8)
        pixels[0, 0, 0] = data['pixel']
        return dict(inputs=pixels, data_samples=BaseDataElement())

    pipeline = CheckedPipeline(Compose([read]), 2)
    pipeline(dict(img_path='a.tif', pixel=0.5))
    for pixel in (float('nan'), float('inf')):
        message = complaint(lambda pixel=pixel: pipeline(dict(img_path='a.tif', pixel=pixel)))
        assert message == 'a.tif has pixels that are not finite'


def test_the_traceback_of_a_worker_is_reduced_to_its_sentence():
    error = DataError('Caught DataError in worker 0.\nTraceback:\nmmacmix.DataError: a.png is no image\n')
    assert str(error) == 'a.png is no image'


def test_a_loss_or_a_weight_that_is_not_finite_ends_a_training_and_is_in_no_checkpoint(shapes):
    cfg = tiny_config('mmdet', SINGLE | {'train_dataloader.num_workers': 2, 'default_hooks.checkpoint.interval': 1})
    cfg.train_cfg.max_iters = 3
    cfg.work_dir, cfg.launcher = 'run', 'none'
    built = build_runner(cfg, ['train_dataloader'])
    step = built.model.train_step

    def poisoned(data, optim_wrapper):
        log = step(data, optim_wrapper)
        return dict(log, loss=log['loss'] * (float('nan') if built.iter == 1 else 1))

    built.model.train_step = poisoned
    message = complaint(built.train)
    assert message.startswith('training stops: loss is not finite in iteration 2 for data/shapes/images/train/')
    assert message.endswith('/run/iter_1.pth') and 'the last checkpoint is ' in message
    name, weight = next(built.model.named_parameters())
    with torch.no_grad():
        weight.view(-1)[0] = float('nan')
    assert built.iter == 1  # one is complete, and the next one is not
    for by_epoch, iteration in ((True, 1), (False, 2)):  # saved after an epoch, and at the end of an iteration
        message = complaint(lambda by_epoch=by_epoch: built.save_checkpoint('run', 'iter_2.pth', by_epoch=by_epoch))
        assert message.startswith(f'training stops: {name} is not finite after iteration {iteration};')
        assert message.endswith('/run/iter_1.pth')
    assert [path.name for path in Path('run').glob('*.pth*')] == ['iter_1.pth']


@pytest.mark.parametrize('image', [
    np.full((64, 64, 3), np.nan, np.float32), np.zeros((64, 64), np.uint8), np.zeros((0, 64, 3), np.uint8)
])  # fmt: skip
def test_a_predictor_takes_only_images(trained, image):
    predictor = Predictor(Config.fromfile(trained[1]), str(trained[2]))
    with pytest.raises(ValueError, match=r'image must be \(H, W, 3\) uint8, got '):
        predictor(image)
