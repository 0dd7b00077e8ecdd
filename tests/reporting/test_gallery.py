"""Galleries show objects and maps at the right positions, in the colours of the legend."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from mmacmix.reporting import draw_gallery

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def visualizer():
    artist = DetLocalVisualizer()
    artist.dataset_meta = dict(classes=('thing',), palette=[(255, 0, 0)])
    return artist


def detector_sample(folder, name, height, width):
    """A grey image with an object in its left half, a prediction in its right half, and one with a low score."""
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
    """Fractions of the pixels in the left and in the right half that differ from the grey of the input."""
    different = (abs(panel.astype(int) - 120) > 10).any(-1)
    left, right = np.array_split(different, 2, axis=1)
    return left.mean(), right.mean()


@pytest.mark.parametrize(('height', 'width', 'factor'), [(100, 200, 2.0), (800, 1600, 0.25)])
def test_input_truth_and_prediction_are_side_by_side(tmp_path, visualizer, height, width, factor):
    draw_gallery([detector_sample(tmp_path, 'only', height, width)], visualizer, tmp_path / 'gallery.png')
    picture = np.array(Image.open(tmp_path / 'gallery.png').convert('RGB'))
    rows, columns = round(height * factor), round(width * factor)
    panels = [picture[:rows, first : first + columns] for first in range(0, 3 * (columns + 6), columns + 6)]
    before, truth, prediction = map(changed, panels)
    assert before == (0, 0)
    assert truth[0] > 0.3 and truth[1] < 0.02  # except for the end of a label
    assert prediction[1] > 0.3 and prediction[0] < 0.02  # without the one with the low score


def test_images_without_objects_predictions_or_truth_are_drawn(tmp_path, visualizer):
    samples = [detector_sample(tmp_path, str(index), 40, 80) for index in range(3)]
    samples[0].gt_instances = samples[0].gt_instances[:0]
    samples[1].pred_instances = samples[1].pred_instances[:0]
    del samples[2].gt_instances
    draw_gallery(samples, visualizer, tmp_path / 'gallery.png', columns=1)
    picture = np.array(Image.open(tmp_path / 'gallery.png').convert('RGB'))
    rows = [picture[first : first + 200] for first in range(0, 3 * 206, 206)]
    drawn = [[changed(row[:, 406 * panel :][:, :400]) != (0, 0) for panel in (1, 2)] for row in rows]
    assert drawn == [[False, True], [True, False], [False, True]]


def test_samples_of_different_sizes_fill_rows(tmp_path, visualizer):
    samples = [
        detector_sample(tmp_path, str(index), *size)
        for index, size in enumerate([(40, 80), (80, 40), (40, 80), (37, 53)])
    ]
    draw_gallery(samples, visualizer, tmp_path / 'gallery.png', columns=2)
    height, width, _ = np.array(Image.open(tmp_path / 'gallery.png')).shape
    assert height == (400 + 6) + (279 + 6)  # each row as high as its highest image
    assert width == 3 * 406 + 24 + 3 * 406 + 24


def draw_maps(folder, truth, predicted, classes, palette, **options):
    """A gallery of one segmentor's sample, the colours of one row of its pixels, and the pixels of its legend."""
    artist = SegLocalVisualizer()
    artist.dataset_meta = dict(classes=classes, palette=palette)
    Image.fromarray(np.full((40, 80, 3), 120, np.uint8)).save(folder / 'image.png')
    sample = SegDataSample(metainfo=dict(img_path=str(folder / 'image.png')))
    sample.gt_sem_seg, sample.pred_sem_seg = PixelData(data=truth), PixelData(data=predicted)
    draw_gallery([sample], artist, folder / 'gallery.png', **options)
    picture = np.array(Image.open(folder / 'gallery.png').convert('RGB')).astype(int)
    return picture[10], picture[200 + 6 :]


def has_color(pixels, color):
    return (pixels == color).all(-1).any()


def test_semantic_maps_have_the_colours_of_the_legend(tmp_path):
    truth = torch.zeros(1, 40, 80, dtype=torch.long)
    truth[..., 40:] = 1
    row, legend = draw_maps(tmp_path, truth, 1 - truth, ('ground', 'thing', 'none'), [BLUE, RED, GREEN])
    assert [has_color(legend, color) for color in (BLUE, RED, GREEN)] == [True, True, False]
    left, right = 406 + 20, 406 + 380  # of the ground truth's panel; the prediction follows 406 pixels to the right
    assert (np.sign(row[:, 0] - row[:, 2])[[20, left, right, left + 406, right + 406]] == [0, -1, 1, 1, -1]).all()


@pytest.mark.parametrize('classes', [2, 300])
@pytest.mark.parametrize('ignore_index', [0, 11, 255])
def test_ignored_pixels_have_no_colour_and_no_name(tmp_path, ignore_index, classes):
    truth = torch.full((1, 40, 80), ignore_index)
    truth[..., 40:] = 1
    palette = [BLUE, RED] + [BLUE] * (classes - 2)
    names = [f'class {index}' for index in range(classes)]
    options = dict(ignore_index=ignore_index, note='a note')
    row, legend = draw_maps(tmp_path, truth, torch.ones_like(truth), names, palette, **options)
    assert np.ptp(row[406 + 20]) == 0 and row[406 + 380, 0] > row[406 + 380, 2]
    assert has_color(legend, RED) and not has_color(legend, BLUE)
    assert len(legend) == 48 + 6 + 48 + 6  # the legend and the note
