"""Charts of path weights show rates and shares of every layer, and leave pyplot alone."""

import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from mmacmix.reporting.charts import draw_lines, draw_path_weights, draw_path_weights_over_time
from mmacmix.reporting.path_weights import PathWeights


@pytest.fixture
def drawn(monkeypatch):
    """All figures, instead of writing them."""
    figures = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, *_, **__: figures.append(figure))
    return figures


def test_charts_of_layers_without_rates_show_only_shares(tmp_path, drawn):
    layers = {f'layer3.{block}': PathWeights(attention_share=0.25 * block) for block in (1, 2)}
    draw_path_weights(layers, tmp_path / 'chart.png')
    draw_path_weights_over_time(
        [10, 20], {name: [weights] * 2 for name, weights in layers.items()}, tmp_path / 'time.png'
    )
    (shares,), (lines,) = (figure.axes for figure in drawn)
    assert [bar.get_height() for bar in shares.patches] == [0.25, 0.5, 0.75, 0.5]
    assert [list(line.get_ydata()) for line in lines.lines] == [[0.25, 0.25], [0.5, 0.5]]


@pytest.mark.parametrize(
    'names, shown',
    [
        (['backbone.layer1.0.conv2', 'backbone.layer2.3.conv2'], ['layer1.0', 'layer2.3']),
        (['backbone.stages.0.0.attn', 'backbone.stages.1.0.attn'], ['stages.0.0', 'stages.1.0']),
        (['stages.0.0.attn'], ['stages.0.0']),
        (['attn'], ['attn']),
    ],
)
def test_a_chart_names_stage_and_block(names, shown, tmp_path, drawn):
    draw_path_weights({name: PathWeights(0.5, 0.5) for name in names}, tmp_path / 'chart.png')
    assert [label.get_text() for label in drawn[0].axes[0].get_xticklabels()] == shown


def test_charts_leave_pyplot_alone(tmp_path):
    figure = pyplot.figure()
    draw_lines({'loss': ([1, 2], [0.5, 0.25])}, 'x', 'y', tmp_path / 'chart.png')
    assert pyplot.get_fignums() == [figure.number] and (tmp_path / 'chart.png').stat().st_size > 1000
    pyplot.close(figure)
