"""Guards that images and videos are found once, under unique names, and that broken ones are reported by name."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmacmix.inference import find_media, read_image


def write_images(*paths):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (6, 4), 'red').save(path)


def names(media):
    return [(str(medium.path), medium.name) for medium in media]


def test_folders_and_patterns_yield_images_under_unique_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images('a/one.png', 'a/deep/two.jpg', 'b/one.png', 'b/three.PNG')
    Path('a/notes.txt').write_text('not an image')
    media = find_media(['a', 'b/*.png', 'b/one.png', 'b/three.PNG'])
    assert names(media) == [
        ('a/deep/two.jpg', 'deep/two'),
        ('a/one.png', 'one'),
        ('b/one.png', 'one_png'),
        ('b/three.PNG', 'three'),
    ]
    assert not any(medium.is_video for medium in media) and list(map(len, media)) == [1, 1, 1, 1]


def test_files_named_twice_are_found_once_and_the_output_folder_is_skipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images('in/one.png', 'in/one.jpg', 'in/deep/one.png', 'in/out/overlays/one.png', 'in/outside.png')
    media = find_media(['in', str(tmp_path / 'in' / 'one.png'), 'in/deep/one.png'], without=Path('in/out'))
    assert names(media) == [
        ('in/deep/one.png', 'deep/one'),
        ('in/one.jpg', 'one'),
        ('in/one.png', 'one_png'),
        ('in/outside.png', 'outside'),
    ]


def test_names_are_numbered_if_the_suffix_does_not_make_them_unique(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images('a/one.png', 'b/one.png', 'c/one.png', 'd/one.png')
    assert [medium.name for medium in find_media(['*/one.png'])] == ['one', 'one_png', 'one_png_2', 'one_png_3']


def test_inputs_without_images_are_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='empty has no image or video'):
        find_media([str(tmp_path / 'empty')])
    with pytest.raises(ValueError, match=r'none\*\.png does not exist'):
        find_media([str(tmp_path / 'none*.png')])


def test_the_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new('RGB', (6, 4), 'red').save(tmp_path / 'photo.jpg', exif=exif)
    image = read_image(tmp_path / 'photo.jpg')
    assert image.shape == (6, 4, 3) and image[0, 0, 2] > 200 > 50 > image[0, 0, 0]  # BGR


@pytest.mark.parametrize('kind', ['png', 'jpg'])
@pytest.mark.parametrize('share', [0, 0.5, 0.9])
def test_truncated_images_are_named(tmp_path, kind, share):
    path = tmp_path / f'part.{kind}'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r'part\.\w+ cannot be read as an image: '):
        read_image(path)


def test_an_image_that_opencv_cannot_decode_is_named(tmp_path, monkeypatch):
    write_images(tmp_path / 'a.png')
    monkeypatch.setattr('mmcv.imread', lambda path: None)
    with pytest.raises(ValueError, match=r'a\.png cannot be read as an image: OpenCV cannot decode it'):
        read_image(tmp_path / 'a.png')


def test_a_video_is_read_frame_by_frame(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / 'film.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 10, (32, 24))
    for level in (0, 100, 200):
        writer.write(np.full((24, 32, 3), level, np.uint8))
    writer.release()
    (medium,) = find_media([str(tmp_path)])
    levels = [round(frame.mean() / 100) for frame in medium.frames()]
    assert medium.is_video and len(medium) == 3 and levels == [0, 1, 2]


def test_a_broken_video_is_named(tmp_path):
    (tmp_path / 'broken.mp4').write_bytes(b'not a video')
    (medium,) = find_media([str(tmp_path / 'broken.mp4')])
    with pytest.raises(ValueError, match=r'broken\.mp4 cannot be read as a video'):
        next(medium.frames())
