"""Rates and shift forms mean the same in all forms of ACmix."""

import pytest
import torch

from mmacmix.layers import ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix
from tests.layers.definitions import set_rates

LAYERS = {
    'ACmix': (lambda **options: ACmix(8, 8, num_heads=2, **options), (2, 8, 9, 7)),
    'WindowACmix': (lambda **options: WindowACmix(8, 2, window_size=4, shift_size=2, **options), (2, 9, 7, 8)),
    'PatchwiseACmix': (lambda **options: PatchwiseACmix(8, 8, **options), (2, 8, 9, 7)),
    'SpatialReductionACmix': (lambda **options: SpatialReductionACmix(8, 2, 2, **options), (2, 9, 7, 8)),
}


@pytest.fixture(params=LAYERS)
def layer_and_input(request):
    build, shape = LAYERS[request.param]
    torch.manual_seed(0)
    return build, torch.randn(shape)


@pytest.mark.parametrize('rates', [(1.0, 0.0), (0.0, 1.0), (0.7, 0.2)])
def test_fixed_rates_scale_the_paths_and_leave_out_a_path_of_rate_0(layer_and_input, rates):
    build, x = layer_and_input
    whole, fixed = build(), build(rates=rates, learn_rates=False)
    fixed.load_state_dict(whole.state_dict())
    set_rates(whole, *rates)
    torch.testing.assert_close(fixed(x), whole(x))
    assert not {'attention_rate', 'conv_rate'} & {name for name, _ in fixed.named_parameters()}
    has_convolution = any(name.startswith('shift_conv') for name, _ in fixed.named_parameters())
    assert has_convolution == (rates[1] != 0)
    fixed(x).sum().backward()
    assert all(parameter.grad is not None for parameter in fixed.parameters() if parameter.requires_grad)
    assert not {'attention_rate', 'conv_rate'} & fixed.state_dict().keys()
    left_out = set(whole.state_dict()) - set(fixed.state_dict()) - {'attention_rate', 'conv_rate'}
    assert bool(left_out) == (0 in rates)


def test_unknown_checkpoint_entries_are_refused_by_a_single_path(layer_and_input):
    build, _ = layer_and_input
    state_dict = {**build().state_dict(), 'surprise': torch.zeros(1)}
    with pytest.raises(RuntimeError, match='surprise'):
        build(rates=(1.0, 0.0), learn_rates=False).load_state_dict(state_dict)


def test_learned_rates_start_at_the_given_values(layer_and_input):
    build, x = layer_and_input
    layer = build(rates=(1.0, 0.0))
    layer(x).square().sum().backward()
    assert (layer.attention_rate.item(), layer.conv_rate.item()) == (1.0, 0.0)
    assert layer.attention_rate.grad.item() and layer.conv_rate.grad.item()


@pytest.mark.parametrize('form', ['depthwise', 'frozen'])
def test_shift_forms_are_equal_at_initialisation(layer_and_input, form):
    build, x = layer_and_input
    group, other = build(), build(shift_form=form)
    shared = {name: tensor for name, tensor in group.state_dict().items() if name != 'shift_conv.weight'}
    other.load_state_dict(shared, strict=False)
    torch.testing.assert_close(other(x), group(x))
    learned = {name for name, _ in other.named_parameters()}
    assert ('shift_conv.weight' in learned) == (form == 'depthwise')
    assert 'shift_conv.weight' in other.state_dict()


def test_heads_share_a_depthwise_kernel():
    layer = ACmix(8, 12, num_heads=4, shift_form='depthwise', rates=(0, 1), learn_rates=False)
    torch.nn.init.normal_(layer.shift_conv.weight)
    assert layer.shift_conv.weight.shape == (3, 9, 3, 3)
    out = layer(torch.randn(1, 8, 6, 6)).unflatten(1, (3, 4))
    assert (out == out[:, :, :1]).all() and not torch.equal(out[:, 0], out[:, 1])


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(rates=(0, 0), learn_rates=False), r'fixed rates must not both be 0, got \(0, 0\)'),
        (dict(rates=(1, 0, 0)), r'those of attention and convolution.* got \(1, 0, 0\)'),
        (dict(rates=0.5), 'those of attention and convolution.* got 0.5'),
        (dict(shift_form='roll'), "shift_form must be one of .*, got 'roll'"),
    ],
)
def test_wrong_arguments_are_named(layer_and_input, arguments, message):
    build, _ = layer_and_input
    with pytest.raises(ValueError, match=message):
        build(**arguments)
