"""A legend has a coloured square and a name for each entry, in as many lines as needed."""

import numpy as np

from mmacmix.reporting.legend import draw_legend

RED, BLUE = (255, 0, 0), (0, 0, 255)


def pixels_of(legend, color):
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((legend == color).all(-1))


def test_each_name_follows_a_square_of_its_colour():
    legend = draw_legend(['first', 'second'], [RED, BLUE], 400)
    assert legend.shape[1] == 400 and legend.dtype == np.uint8
    rows, columns = zip(pixels_of(legend, RED), pixels_of(legend, BLUE), strict=True)
    assert set(rows[0]) == set(rows[1]) and columns[0].max() < columns[1].min()
    between = legend[:, columns[0].max() + 2 : columns[1].min() - 2]
    assert (between.sum(-1) < 200).sum() > 20  # dark: letters


def test_an_entry_that_does_not_fit_starts_a_new_line():
    one, two = (draw_legend(['a name', 'another'], [RED, BLUE], width) for width in (400, 100))
    assert two.shape[0] == 2 * one.shape[0]
    assert pixels_of(two, BLUE)[0].min() > pixels_of(two, RED)[0].max()
