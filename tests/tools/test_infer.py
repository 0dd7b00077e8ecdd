"""tools/infer.py, tools/plot_attention.py and the hosts' own inferencers with configs of this package."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO

from mmacmix.datasets import CLASSES, SEMANTIC_CLASSES, SEMANTIC_PALETTE
from mmacmix.errors import UserError
from mmacmix.inference import Predictor
from tests.tooling import ROOT, complaint, load, python


def infer(*arguments):
    load('infer.py').main(list(map(str, arguments)))


def test_images_become_overlays_and_predictions(trained, tmp_path, capsys):
    host, config, checkpoint, images = trained
    infer(config, checkpoint, images, '--out-dir', tmp_path, '--score-thr', 0.1)
    assert f'2 of 2 images and videos are in {tmp_path}' in capsys.readouterr().out
    names = sorted(path.stem for path in images.iterdir())
    overlays = sorted((tmp_path / 'overlays').iterdir())
    assert [path.name for path in overlays] == [f'{name}.png' for name in names]
    for name, overlay in zip(names, overlays, strict=True):
        before, after = (np.array(Image.open(path).convert('RGB')) for path in (images / f'{name}.png', overlay))
        assert after.shape[0] > before.shape[0] and after.shape[1] == before.shape[1]  # a legend below
        assert abs(after[: before.shape[0]].astype(int) - before).max() > 20
    if host == 'mmseg':
        picture = Image.open(tmp_path / 'maps' / f'{names[0]}.png')
        labels = np.array(picture)
        assert labels.shape == before.shape[:2] and labels.max() < len(SEMANTIC_CLASSES)
        assert tuple(np.array(picture.convert('RGB'))[0, 0]) == SEMANTIC_PALETTE[labels[0, 0]]
        return
    coco = COCO(tmp_path / 'predictions.json')
    assert [image['file_name'] for image in coco.imgs.values()] == [str(images / f'{name}.png') for name in names]
    assert [category['name'] for category in coco.cats.values()] == list(CLASSES)
    assert coco.anns
    for entry in coco.anns.values():
        assert coco.annToMask(entry).shape == before.shape[:2] and entry['area'] == coco.annToMask(entry).sum()
        assert 0 <= entry['score'] <= 1 and entry['category_id'] in coco.cats


def test_drawing_is_deterministic_and_uses_the_colours_of_the_legend(trained):
    host, config, checkpoint, _ = trained
    predictor = Predictor(Config.fromfile(config), str(checkpoint))
    image = np.zeros((128, 128, 3), np.uint8)
    sample = predictor(image)
    if host == 'mmdet':
        sample.pred_instances = sample.pred_instances[:1]
        sample.pred_instances.masks[:] = False
        sample.pred_instances.masks[:, 30:90, 30:90] = True
        sample.pred_instances.bboxes[:] = torch.tensor([0.0, 0, 1, 1])
        label = sample.pred_instances.labels[0]
    else:
        label = sample.pred_sem_seg.data[:] = 3
    first, second = (predictor.draw(image, sample, score_thr=0, legend=False) for _ in range(2))
    assert np.array_equal(first, second)
    color = np.array(predictor.palette[label])[::-1]  # BGR
    shown = first[40:80, 40:80].reshape(-1, 3).mean(0)
    assert np.allclose(shown / np.linalg.norm(shown), color / np.linalg.norm(color), atol=0.02)


def test_predictions_equal_those_of_the_host(trained):
    host, config, checkpoint, images = trained
    path = str(min(images.iterdir()))
    cfg = Config.fromfile(config)
    ours = Predictor(cfg, str(checkpoint))(cv2.imread(path))
    if host == 'mmdet':
        from mmdet.apis import inference_detector, init_detector

        theirs = inference_detector(init_detector(Config.fromfile(config), str(checkpoint), device='cpu'), path)
        assert len(ours.pred_instances) > 0
        for name in ('bboxes', 'scores', 'labels', 'masks'):
            assert torch.equal(ours.pred_instances[name], theirs.pred_instances[name])
    else:
        from mmseg.apis import inference_model, init_model

        theirs = inference_model(init_model(Config.fromfile(config), str(checkpoint), device='cpu'), path)
        assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)


def test_the_hosts_inferencers_accept_the_config(trained, tmp_path):
    host, config, checkpoint, images = trained
    path = str(min(images.iterdir()))
    if host == 'mmdet':
        from mmdet.apis import DetInferencer

        inferencer = DetInferencer(str(config), str(checkpoint), device='cpu', show_progress=False)
        result = inferencer(path, out_dir=str(tmp_path), pred_score_thr=0.1)
        assert len(result['predictions'][0]['scores']) > 0 and list((tmp_path / 'vis').iterdir())
    else:
        from mmseg.apis import MMSegInferencer

        inferencer = MMSegInferencer(
            str(config), str(checkpoint), classes=SEMANTIC_CLASSES, palette=SEMANTIC_PALETTE, device='cpu'
        )
        result = inferencer(path, out_dir=str(tmp_path), show=False)
        assert result['predictions'].shape == (128, 128) and list((tmp_path / 'vis').iterdir())


def test_a_video_becomes_a_video(trained, tmp_path):
    host, config, checkpoint, images = trained
    film = tmp_path / 'film.mp4'
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*'mp4v'), 10, (128, 128))
    for path in sorted(images.iterdir()):
        writer.write(cv2.imread(str(path)))
    writer.release()
    infer(config, checkpoint, film, '--out-dir', tmp_path / 'out', '--fuse')
    reader = cv2.VideoCapture(str(tmp_path / 'out' / 'overlays' / 'film.mp4'))
    frames = [reader.read()[1] for _ in range(2)]
    assert [frame.shape for frame in frames] == [(128, 128, 3)] * 2 and not reader.read()[0]
    if host == 'mmseg':
        assert sorted(path.name for path in (tmp_path / 'out' / 'maps' / 'film').iterdir()) == [
            '000000.png',
            '000001.png',
        ]
    else:
        coco = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
        assert [image['frame'] for image in coco['images']] == [0, 1]


def test_broken_files_are_named_and_the_others_are_processed(trained, tmp_path, capsys):
    _, config, checkpoint, images = trained
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'half.png').write_bytes(min(images.iterdir()).read_bytes()[:2000])
    with pytest.raises(UserError) as caught:
        infer(config, checkpoint, tmp_path / 'empty.png', images, tmp_path / 'half.png', '--out-dir', tmp_path / 'out')
    assert 'empty.png cannot be read' in str(caught.value) and 'half.png cannot be read' in str(caught.value)
    assert '2 of 4 images' in capsys.readouterr().out
    assert len(list((tmp_path / 'out' / 'overlays').iterdir())) == 2


def test_files_that_fail_later_are_named_too(trained, tmp_path, capsys, monkeypatch):
    _, config, checkpoint, images = trained
    film = str(tmp_path / 'film.avi')
    writer = cv2.VideoWriter(film, cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 48))
    for image in np.random.default_rng(0).integers(0, 255, (8, 48, 64, 3), dtype=np.uint8):
        writer.write(image)
    writer.release()
    whole = Path(film).read_bytes()
    Path(film).write_bytes(whole[: len(whole) * 6 // 10])
    draw = Predictor.draw

    def fail_once(predictor, image, *arguments, **options):
        if image.shape[:2] == (1, 1):
            raise IndexError('no room')
        return draw(predictor, image, *arguments, **options)

    monkeypatch.setattr(Predictor, 'draw', fail_once)
    Image.new('RGB', (1, 1)).save(tmp_path / 'dot.png')
    with pytest.raises(UserError) as caught:
        infer(config, checkpoint, tmp_path / 'dot.png', film, images, '--out-dir', tmp_path / 'out')
    told = str(caught.value)
    assert 'dot.png: IndexError no room' in told and re.search(r'film\.avi ends after [34] of 8 frames', told)
    assert '2 of 4 images and videos' in capsys.readouterr().out
    assert {path.name for path in (tmp_path / 'out' / 'overlays').iterdir()} == {
        'film.mp4', *(path.name for path in images.iterdir())
    }  # fmt: skip


def test_the_hosts_inferencers_read_a_training_checkpoint_in_their_own_process(trained):
    host, config, checkpoint, images = trained
    name = dict(mmdet='DetInferencer', mmseg='MMSegInferencer')[host]
    image = str(min(images.iterdir()))
    done = python(
        f'from {host}.apis import {name}',
        f"{name}({str(config)!r}, {str(checkpoint)!r}, device='cpu')({image!r})",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['{config}', '{checkpoint}', '{images}', '--device', 'abacus'], 'device abacus: '),
        (['{config}', '{checkpoint}', '{images}', '--out-dir', '{config}'], 'tiny.py is a file'),
        (['{config}', '{checkpoint}', '{images}', '--score-thr', '30'], '--score-thr must be between 0 and 1, got 30'),
        (
            ['{config}', '{checkpoint}', '{images}', '--cfg-options', 'test_dataloader=None'],
            'tiny.py has no test_dataloader',
        ),
        (['{config}', '{checkpoint}', 'nothing.png'], 'nothing.png does not exist'),
        (['{config}', 'nothing.pth', '{images}'], 'there is no checkpoint at nothing.pth'),
        (['nothing.py', '{checkpoint}', '{images}'], 'there is no config at nothing.py'),
        ([ROOT / 'configs/imagenet/acmix-r26_8xb32_in1k.py', '{checkpoint}', '{images}'], 'neither a detector nor'),
    ],
)
def test_mistakes_are_reported_in_one_sentence(trained, arguments, message, capsys, tmp_path, monkeypatch):
    _, config, checkpoint, images = trained
    monkeypatch.chdir(tmp_path)
    places = dict(config=config, checkpoint=checkpoint, images=images)
    assert message in complaint('infer.py', [str(each).format(**places) for each in arguments], capsys)
    assert not list(tmp_path.iterdir())


def test_attention_is_drawn(trained, tmp_path, capsys):
    _, config, checkpoint, images = trained
    out = tmp_path / 'new' / 'attention.png'
    arguments = [config, checkpoint, min(images.iterdir())]
    load('plot_attention.py').main([*map(str, arguments), '--pixel', '20', '30', '--out', str(out)])
    assert 'at 20, 30' in capsys.readouterr().out and min(Image.open(out).size) > 300
    told = complaint('plot_attention.py', [*arguments, '--pixel', 128, 0], capsys)
    assert '--pixel 128 0 is outside' in told and '128 pixels wide' in told


def test_attention_maps_cover_the_padded_image(trained):
    host, config, checkpoint, _ = trained
    predictor = Predictor(Config.fromfile(config), str(checkpoint))
    image = np.zeros((60, 40, 3), np.uint8)  # resized to 128 x 85, padded to a multiple of 32 by the detector
    maps, (width, height) = predictor.attention_maps(image, (0, 59))
    assert height == pytest.approx(60, abs=0.5)
    assert width == pytest.approx(45 if host == 'mmdet' else 40, abs=0.5)
    rows, _ = np.nonzero(next(iter(maps.values())).sum(0).numpy())
    assert rows.max() == next(iter(maps.values())).shape[1] - 1  # the last row attends to itself
