"""tools/infer.py, and the hosts' own inferencers, with configs of this package."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO

from mmacmix.datasets import CLASSES, SEMANTIC_CLASSES, SEMANTIC_PALETTE, write_shapes
from mmacmix.inference import Predictor
from mmacmix.running import UserError, build_model
from tests.tooling import ROOT, complaint, load

TINY = {
    'mmdet': (
        'configs/shapes/mask-rcnn_acmix-r26_shapes.py',
        {
            'model.backbone.base_channels': 8,
            'model.neck.in_channels': [32, 64, 128, 256],
            'model.test_cfg.rcnn.score_thr': 0.0,
        },
    ),
    'mmseg': (
        'configs/shapes/upernet_acmix-swin_shapes.py',
        {
            'model.backbone.arch.embed_dims': 8,
            'model.decode_head.in_channels': [8, 16, 32],
            'model.auxiliary_head.in_channels': 16,
        },
    ),
}


@pytest.fixture(scope='module', params=TINY)
def trained(request, tmp_path_factory):
    """Host, config, checkpoint, and a folder with two images."""
    folder = tmp_path_factory.mktemp(request.param)
    write_shapes(folder / 'shapes', train=1, val=2)
    path, options = TINY[request.param]
    cfg = Config.fromfile(ROOT / path)
    cfg.merge_from_dict(options)
    cfg.dump(folder / 'tiny.py')
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_model(cfg).state_dict(), meta={}), folder / 'tiny.pth')
    return request.param, folder / 'tiny.py', folder / 'tiny.pth', folder / 'shapes' / 'images' / 'val'


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


def test_the_prediction_is_that_of_the_hosts_own_function(trained):
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


def test_the_hosts_inferencers_take_the_config(trained, tmp_path):
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


def test_broken_files_are_named_and_the_rest_goes_on(trained, tmp_path, capsys):
    _, config, checkpoint, images = trained
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'half.png').write_bytes(min(images.iterdir()).read_bytes()[:2000])
    with pytest.raises(UserError) as caught:
        infer(config, checkpoint, tmp_path / 'empty.png', images, tmp_path / 'half.png', '--out-dir', tmp_path / 'out')
    assert 'empty.png cannot be read' in str(caught.value) and 'half.png cannot be read' in str(caught.value)
    assert '2 of 4 images' in capsys.readouterr().out
    assert len(list((tmp_path / 'out' / 'overlays').iterdir())) == 2


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['{config}', '{checkpoint}', 'nothing.png'], 'nothing.png is not there'),
        (['{config}', 'nothing.pth', '{images}'], 'there is no checkpoint at nothing.pth'),
        (['nothing.py', '{checkpoint}', '{images}'], 'there is no config at nothing.py'),
        ([ROOT / 'configs/imagenet/acmix-r26_8xb32_in1k.py', '{checkpoint}', '{images}'], 'neither a detector nor'),
    ],
)
def test_mistakes_are_told_in_one_sentence(trained, arguments, message, capsys, tmp_path, monkeypatch):
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
    assert '--pixel 128 0 lies outside of' in told and '128 pixels wide' in told


def test_a_place_is_a_share_of_the_padded_map(trained):
    host, config, checkpoint, _ = trained
    predictor = Predictor(Config.fromfile(config), str(checkpoint))
    image = np.zeros((60, 40, 3), np.uint8)  # resized to 128 x 85, padded to a multiple of 32 by the detector
    maps, (width, height) = predictor.attention_maps(image, (0, 59))
    assert height == pytest.approx(60, abs=0.5)
    assert width == pytest.approx(45 if host == 'mmdet' else 40, abs=0.5)
    rows, _ = np.nonzero(next(iter(maps.values())).sum(0).numpy())
    assert rows.max() == next(iter(maps.values())).shape[1] - 1  # the last row sees itself
