from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmacmix.inference import find_media, read_image


def picture(path, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, 'red').save(path)
    return path


def test_files_folders_and_patterns_each_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a/one.png', 'a/deep/two.jpg', 'b/one.png', 'b/three.PNG'):
        picture(Path(name))
    Path('a/notes.txt').write_text('no image')
    media = find_media(['a', 'b/*.png', 'b/one.png', 'b/three.PNG'])
    assert [(str(medium.path), medium.name) for medium in media] == [
        ('a/deep/two.jpg', 'deep/two'),
        ('a/one.png', 'one'),
        ('b/one.png', 'one_png'),
        ('b/three.PNG', 'three'),
    ]
    assert not any(medium.is_video for medium in media) and list(map(len, media)) == [1, 1, 1, 1]


def test_each_file_counts_once_and_what_is_written_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('in/one.png', 'in/one.jpg', 'in/deep/one.png', 'in/out/overlays/one.png', 'in/outside.png'):
        picture(Path(name))
    found = find_media(['in', str(tmp_path / 'in' / 'one.png'), 'in/deep/one.png'], without=Path('in/out'))
    assert [(str(medium.path), medium.name) for medium in found] == [
        ('in/deep/one.png', 'deep/one'),
        ('in/one.jpg', 'one'),
        ('in/one.png', 'one_png'),
        ('in/outside.png', 'outside'),
    ]


def test_what_stands_for_nothing_is_told(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='empty holds no image or video'):
        find_media([str(tmp_path / 'empty')])
    with pytest.raises(ValueError, match=r'none\*\.png is not there'):
        find_media([str(tmp_path / 'none*.png')])


def test_a_turned_photo_is_turned_back(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new('RGB', (6, 4), 'red').save(tmp_path / 'photo.jpg', exif=exif)
    image = read_image(tmp_path / 'photo.jpg')
    assert image.shape == (6, 4, 3) and image[0, 0, 2] > 200 > 50 > image[0, 0, 0]  # BGR


@pytest.mark.parametrize('kind', ['png', 'jpg'])
@pytest.mark.parametrize('share', [0, 0.5, 0.9])
def test_what_is_no_whole_image_is_named(tmp_path, kind, share):
    path = tmp_path / f'part.{kind}'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r'part\.\w+ cannot be read as an image: '):
        read_image(path)


def test_a_video_is_read_frame_by_frame(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / 'film.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 10, (32, 24))
    for level in (0, 100, 200):
        writer.write(np.full((24, 32, 3), level, np.uint8))
    writer.release()
    (medium,) = find_media([str(tmp_path)])
    levels = [round(frame.mean() / 100) for frame in medium.frames()]
    assert medium.is_video and len(medium) == 3 and levels == [0, 1, 2]


def test_a_video_that_is_none_is_named(tmp_path):
    (tmp_path / 'broken.mp4').write_bytes(b'nothing of that kind')
    (medium,) = find_media([str(tmp_path / 'broken.mp4')])
    with pytest.raises(ValueError, match=r'broken\.mp4 cannot be read as a video'):
        next(medium.frames())
