from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from mmacmix.layers import LESA, ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix, XVolution
from mmacmix.reporting import PathWeightsHook
from mmacmix.reporting.charts import draw_path_weights, draw_path_weights_over_time
from mmacmix.reporting.path_weights import (
    PathWeights,
    attention_share,
    logged_path_weights,
    observed_path_weights,
    path_weights_of,
)

LAYERS = {
    'ACmix': (lambda **rates: ACmix(8, 8, bias=True, **rates), (2, 8, 9, 7)),
    'WindowACmix': (lambda **rates: WindowACmix(8, 2, drop_rate=0.5, shift_size=3, **rates), (2, 9, 7, 8)),
    'SpatialReductionACmix': (lambda **rates: SpatialReductionACmix(8, 2, 2, **rates), (2, 8, 6, 8)),
    'PatchwiseACmix': (lambda **rates: PatchwiseACmix(8, 8, **rates), (2, 8, 9, 7)),
}


@pytest.mark.parametrize('name', LAYERS)
def test_the_share_is_that_of_layers_with_one_path(name):
    build, shape = LAYERS[name]
    layer, x = build(rates=(0.7, 0.2)), torch.rand(shape)
    if name == 'ACmix':
        nn.init.constant_(layer.bias, 3.0)  # of neither path
    state = layer.state_dict()
    norms = []
    for rates in ((0.7, 0), (0, 0.2)):
        alone = build(rates=rates, learn_rates=False).eval()
        alone.load_state_dict({key: value for key, value in state.items() if key in alone.state_dict()})
        if name == 'ACmix':
            nn.init.zeros_(alone.bias)
        norms.append(alone(x).norm().item())
    before = {key: value.clone() for key, value in state.items()}
    assert attention_share(layer, x) == pytest.approx(norms[0] / sum(norms), rel=1e-5)
    assert layer.training and all(module.training for module in layer.modules())
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize('layer', [XVolution(8, 8, stride=2, bias=True), LESA(8, 16, stride=2, num_heads=4, bias=True)])
def test_layers_without_rates_have_a_share(layer):
    x = torch.rand(2, 8, 9, 7)
    with torch.no_grad():
        attention, convolution = (path.norm().item() for path in layer.eval().paths(x))
        torch.testing.assert_close(sum(layer.paths(x)), layer(x))
    statistics = {name: buffer.clone() for name, buffer in layer.train().named_buffers()}
    assert attention_share(layer, x) == pytest.approx(attention / (attention + convolution), rel=1e-5)
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in layer.named_buffers())
    with observed_path_weights(nn.Sequential(layer)) as layers:
        layer(x)
    assert layers['0'][:2] == (None, None) and 0 < layers['0'].attention_share < 1


def test_a_path_that_is_left_out_has_no_share():
    x = torch.rand(1, 8, 5, 5)
    assert attention_share(ACmix(8, 8, rates=(1, 0), learn_rates=False), x) == 1
    assert attention_share(ACmix(8, 8, rates=(0, 1), learn_rates=False), x) == 0


def test_observing_changes_neither_output_nor_gradients():
    network, x = nn.Sequential(ACmix(8, 8), ACmix(8, 8, rates=(0.9, 0.1))), torch.rand(1, 8, 6, 6)
    plain = torch.autograd.grad(network(x).sum(), network.parameters())
    with observed_path_weights(network) as layers:
        observed = torch.autograd.grad(network(x).sum(), network.parameters())
    assert all(map(torch.equal, observed, plain))
    assert list(layers) == ['0', '1'] and layers['1'][:2] == pytest.approx((0.9, 0.1))
    assert 0 < layers['0'].attention_share < 1
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_rates_of_a_checkpoint_in_order():
    network = nn.Sequential(ACmix(8, 8, rates=(1, 2)), nn.Conv2d(8, 8, 1), ACmix(8, 8, rates=(3, 4)))
    assert path_weights_of(network.state_dict()) == {'0': PathWeights(1, 2), '2': PathWeights(3, 4)}
    assert path_weights_of(ACmix(8, 8, rates=(1, 2)).state_dict()) == {'': PathWeights(1, 2)}
    assert path_weights_of(nn.Conv2d(8, 8, 1).state_dict()) == {}


def test_the_hook_logs_at_its_interval_and_at_the_end():
    network, logged = nn.Sequential(ACmix(8, 8), XVolution(8, 8)), []
    runner = SimpleNamespace(iter=0, max_iters=5, model=network)
    runner.visualizer = SimpleNamespace(add_scalars=lambda scalars, step: logged.append(scalars | dict(step=step)))
    hook = PathWeightsHook(interval=2)
    for runner.iter in range(5):
        hook.before_train_iter(runner, runner.iter)
        network(torch.rand(1, 8, 5, 5))
        hook.after_train_iter(runner, runner.iter)
    steps, layers = logged_path_weights(logged)
    assert steps == [2, 4, 5] and list(layers) == ['0', '1']
    assert all(0 < weights.attention_share < 1 for line in layers.values() for weights in line)
    assert {weights[:2] for weights in layers['0']} == {(0.5, 0.5)}
    assert {weights[:2] for weights in layers['1']} == {(None, None)}


def test_charts_of_layers_without_rates_show_shares_alone(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure))
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
def test_a_chart_names_stage_and_block(names, shown, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure))
    draw_path_weights({name: PathWeights(0.5, 0.5) for name in names}, tmp_path / 'chart.png')
    assert [label.get_text() for label in drawn[0].axes[0].get_xticklabels()] == shown
