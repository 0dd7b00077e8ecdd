"""Path weights are those of layers with one path; measuring them changes nothing and never ends a training."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmacmix.layers import LESA, ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix, XVolution
from mmacmix.reporting import PathWeightsHook, guard, path_weights
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
def test_the_share_equals_that_of_layers_with_one_path(name):
    build, shape = LAYERS[name]
    layer, x = build(rates=(0.7, 0.2)), torch.rand(shape)
    if name == 'ACmix':
        nn.init.constant_(layer.bias, 3.0)  # belongs to neither path
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


def test_a_missing_path_has_no_share():
    x = torch.rand(1, 8, 5, 5)
    assert attention_share(ACmix(8, 8, rates=(1, 0), learn_rates=False), x) == 1
    assert attention_share(ACmix(8, 8, rates=(0, 1), learn_rates=False), x) == 0


@pytest.mark.parametrize('autocast', [False, True])
def test_observing_changes_neither_gradients_nor_random_state(autocast):
    network, x = nn.Sequential(ACmix(8, 8), ACmix(8, 8, rates=(0.9, 0.1))), torch.rand(1, 8, 6, 6)

    def gradients():
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            return torch.autograd.grad(network(x).float().sum(), network.parameters())

    plain, state = gradients(), torch.get_rng_state()
    with observed_path_weights(network) as layers:
        observed = gradients()
    assert all(map(torch.equal, observed, plain)) and torch.equal(torch.get_rng_state(), state)
    assert list(layers) == ['0', '1'] and layers['1'][:2] == pytest.approx((0.9, 0.1))
    assert 0 < layers['0'].attention_share < 1
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_rates_of_a_checkpoint_are_in_the_order_of_the_network():
    network = nn.Sequential(ACmix(8, 8, rates=(1, 2)), nn.Conv2d(8, 8, 1), ACmix(8, 8, rates=(3, 4)))
    assert path_weights_of(network.state_dict()) == {'0': PathWeights(1, 2), '2': PathWeights(3, 4)}
    assert path_weights_of(ACmix(8, 8, rates=(1, 2)).state_dict()) == {'': PathWeights(1, 2)}
    assert path_weights_of(nn.Conv2d(8, 8, 1).state_dict()) == {}


def train(network, hook, iterations=5):
    """Steps of a training with the hook; the scalars that it logs."""
    logged = []
    runner = SimpleNamespace(iter=0, max_iters=iterations, model=network)
    runner.visualizer = SimpleNamespace(add_scalars=lambda scalars, step: logged.append(scalars | dict(step=step)))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for runner.iter in range(iterations):
        hook.before_train_iter(runner, runner.iter)
        network(torch.rand(1, 8, 5, 5)).sum().backward()
        hook.after_train_iter(runner, runner.iter)
        optimizer.step()
    return logged


def test_the_hook_logs_at_its_interval_and_at_the_end():
    network = nn.Sequential(ACmix(8, 8, learn_rates=True), XVolution(8, 8))
    steps, layers = logged_path_weights(train(network, PathWeightsHook(interval=2)))
    assert steps == [2, 4, 5] and list(layers) == ['0', '1']
    assert all(0 < weights.attention_share < 1 for line in layers.values() for weights in line)
    assert all(None not in weights for weights in layers['0'])
    assert {weights[:2] for weights in layers['1']} == {(None, None)}


def test_an_error_while_measuring_is_one_warning_and_training_continues(monkeypatch):
    warnings = []
    monkeypatch.setattr(guard, 'print_log', lambda message, *_: warnings.append(message))

    def fail(*_):
        raise RuntimeError('CUDA out of memory')

    network = nn.Sequential(ACmix(8, 8), ACmix(8, 8))
    with monkeypatch.context() as patch:
        patch.setattr(path_weights, 'attention_share', fail)
        torch.manual_seed(1)
        logged = train(network, PathWeightsHook(interval=1))
    assert warnings == ['path weights cannot be written, and the run continues: RuntimeError CUDA out of memory']
    assert logged_path_weights(logged)[1] == {}
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_steps_at_which_a_layer_was_not_measured_are_left_out():
    lines = [
        {'path_weights/a/attention_share': 0.1, 'step': 1},
        {'path_weights/a/attention_share': 0.2, 'path_weights/b/attention_share': 0.3, 'step': 2},
        {'path_weights/a/attention_rate': 1.0, 'path_weights/b/attention_share': 0.4, 'step': 3},
        {'path_weights/a/attention_share': 0.5, 'path_weights/b/attention_share': 0.6, 'step': 4},
        {'path_weights/a/attention_rate': 1.0, 'step': 5},
    ]
    steps, layers = logged_path_weights(lines)
    assert steps == [2, 4]
    shares = {name: [weights.attention_share for weights in line] for name, line in layers.items()}
    assert shares == {'a': [0.2, 0.5], 'b': [0.3, 0.6]}
    assert logged_path_weights([]) == logged_path_weights(lines[-1:]) == ([], {})
