import numpy as np

from mmacmix.reporting.legend import draw_legend

RED, BLUE = (255, 0, 0), (0, 0, 255)


def places(legend, color):
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((legend == color).all(-1))


def test_a_square_of_its_colour_stands_before_each_name():
    legend = draw_legend(['first', 'second'], [RED, BLUE], 400)
    assert legend.shape[1] == 400 and legend.dtype == np.uint8
    rows, columns = zip(places(legend, RED), places(legend, BLUE), strict=True)
    assert set(rows[0]) == set(rows[1]) and columns[0].max() < columns[1].min()
    between = legend[:, columns[0].max() + 2 : columns[1].min() - 2]
    assert (between.sum(-1) < 200).sum() > 20  # dark: letters


def test_what_does_not_fit_a_line_goes_to_the_next():
    one, two = (draw_legend(['a name', 'another'], [RED, BLUE], width) for width in (400, 100))
    assert two.shape[0] == 2 * one.shape[0]
    assert places(two, BLUE)[0].min() > places(two, RED)[0].max()
