import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from mmacmix.reporting import draw_gallery


@pytest.fixture
def visualizer():
    artist = DetLocalVisualizer()
    artist.dataset_meta = dict(classes=('thing',), palette=[(255, 0, 0)])
    return artist


def sample_of(folder, name, height, width):
    """A grey image with one true object in its left half and a sure and an unsure prediction in its right half."""
    path = folder / f'{name}.png'
    Image.fromarray(np.full((height, width, 3), 120, np.uint8)).save(path)
    left, right = torch.zeros(2, 1, height, width, dtype=torch.bool)
    left[:, 8 : height // 2, 2 : width // 2 - 2] = True
    right[:, 8 : height // 2, width // 2 + 2 : -2] = True
    sample = DetDataSample(metainfo=dict(img_path=str(path)))
    sample.gt_instances = InstanceData(labels=torch.zeros(1, dtype=torch.long), masks=left, bboxes=box(left))
    sample.pred_instances = InstanceData(
        labels=torch.zeros(2, dtype=torch.long),
        scores=torch.tensor([0.9, 0.1]),
        masks=torch.cat([right, left]),
        bboxes=torch.cat([box(right), box(left)]),
    )
    return sample


def box(mask):
    ys, xs = torch.nonzero(mask[0], as_tuple=True)
    return torch.tensor([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]).float()


def changed(panel):
    """Share of the pixels of the left and of the right half that aren't the grey of the input."""
    different = (abs(panel.astype(int) - 120) > 10).any(-1)
    left, right = np.array_split(different, 2, axis=1)
    return left.mean(), right.mean()


@pytest.mark.parametrize(('height', 'width', 'factor'), [(100, 200, 2.0), (800, 1600, 0.25)])
def test_input_truth_and_prediction_side_by_side(tmp_path, visualizer, height, width, factor):
    draw_gallery([sample_of(tmp_path, 'only', height, width)], visualizer, tmp_path / 'gallery.png')
    picture = np.array(Image.open(tmp_path / 'gallery.png').convert('RGB'))
    rows, columns = round(height * factor), round(width * factor)
    panels = [picture[:rows, first : first + columns] for first in range(0, 3 * (columns + 6), columns + 6)]
    before, truth, prediction = map(changed, panels)
    assert before == (0, 0)
    assert truth[0] > 0.3 and truth[1] < 0.02  # but for the end of a label
    assert prediction[1] > 0.3 and prediction[0] < 0.02  # the unsure one is left out


def test_images_without_objects_predictions_or_truth(tmp_path, visualizer):
    samples = [sample_of(tmp_path, str(index), 40, 80) for index in range(3)]
    samples[0].gt_instances = samples[0].gt_instances[:0]
    samples[1].pred_instances = samples[1].pred_instances[:0]
    del samples[2].gt_instances
    draw_gallery(samples, visualizer, tmp_path / 'gallery.png', columns=1)
    picture = np.array(Image.open(tmp_path / 'gallery.png').convert('RGB'))
    rows = [picture[first : first + 200] for first in range(0, 3 * 206, 206)]
    drawn = [[changed(row[:, 406 * panel :][:, :400]) != (0, 0) for panel in (1, 2)] for row in rows]
    assert drawn == [[False, True], [True, False], [False, True]]


def test_semantic_maps(tmp_path):
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    artist = SegLocalVisualizer()
    artist.dataset_meta = dict(classes=('ground', 'thing', 'none'), palette=[(0, 0, 255), (255, 0, 0), (0, 255, 0)])
    path = tmp_path / 'image.png'
    Image.fromarray(np.full((40, 80, 3), 120, np.uint8)).save(path)
    truth = torch.zeros(1, 40, 80, dtype=torch.long)
    truth[..., 40:] = 1
    sample = SegDataSample(metainfo=dict(img_path=str(path)))
    sample.gt_sem_seg, sample.pred_sem_seg = PixelData(data=truth), PixelData(data=1 - truth)
    draw_gallery([sample], artist, tmp_path / 'gallery.png')
    picture = np.array(Image.open(tmp_path / 'gallery.png').convert('RGB')).astype(int)
    legend = picture[200 + 6 :]
    for color in ((0, 0, 255), (255, 0, 0)):
        assert (legend == color).all(-1).any()
    assert not (legend == (0, 255, 0)).all(-1).any()  # of a class that is nowhere
    red_over_blue = picture[10, :, 0] - picture[10, :, 2]
    left, right = 406 + 20, 406 + 380  # of the truth's panel; the prediction's is 406 further
    assert (np.sign(red_over_blue[[20, left, right, left + 406, right + 406]]) == [0, -1, 1, 1, -1]).all()


def test_samples_of_different_sizes_fill_rows(tmp_path, visualizer):
    samples = [
        sample_of(tmp_path, str(index), *size) for index, size in enumerate([(40, 80), (80, 40), (40, 80), (37, 53)])
    ]
    draw_gallery(samples, visualizer, tmp_path / 'gallery.png', columns=2)
    height, width, _ = np.array(Image.open(tmp_path / 'gallery.png')).shape
    assert height == (400 + 6) + (279 + 6)  # each row as high as its highest picture
    assert width == 3 * 406 + 24 + 3 * 406 + 24


@pytest.mark.parametrize('ignore_index', [0, 11, 255])
def test_ignored_pixels_have_no_colour_and_no_name(tmp_path, ignore_index):
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    artist = SegLocalVisualizer()
    artist.dataset_meta = dict(classes=('ground', 'thing'), palette=[(0, 0, 255), (255, 0, 0)])
    path = tmp_path / 'image.png'
    Image.fromarray(np.full((40, 80, 3), 120, np.uint8)).save(path)
    truth = torch.full((1, 40, 80), ignore_index)
    truth[..., 40:] = 1
    sample = SegDataSample(metainfo=dict(img_path=str(path)))
    sample.gt_sem_seg, sample.pred_sem_seg = PixelData(data=truth), PixelData(data=torch.ones_like(truth))
    draw_gallery([sample], artist, tmp_path / 'gallery.png', ignore_index=ignore_index, note='a note')
    picture = np.array(Image.open(tmp_path / 'gallery.png').convert('RGB')).astype(int)
    assert np.ptp(picture[10, 406 + 20]) == 0 and picture[10, 406 + 380, 0] > picture[10, 406 + 380, 2]
    legend = picture[200 + 6 :]
    assert (legend == (255, 0, 0)).all(-1).any() and not (legend == (0, 0, 255)).all(-1).any()
    assert len(legend) == 48 + 6 + 48 + 6  # the legend and the note
