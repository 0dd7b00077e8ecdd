"""ACmix-SAN: parameters as published, and checks of arguments."""

import pytest

from mmacmix.backbones import ACmixSAN


def small(**arguments):
    return ACmixSAN(**{'depth': 10, 'base_channels': 32, 'kernel_sizes': (3, 3, 3, 3, 3), **arguments})


# Includes the classifier's head. The reconstruction has the smallest second path that reads the whole value.
@pytest.mark.parametrize('depth, plain, published', [(10, 11.841, 12.1), (15, 16.181, 16.6), (19, 20.518, 21.2)])
def test_number_of_parameters(depth, plain, published):
    head = 2048 * 1000 + 1000
    count = lambda network: (sum(p.numel() for p in network.parameters()) + head) / 1e6  # noqa: E731
    attention_alone = ACmixSAN(depth, acmix=dict(rates=(1, 0), learn_rates=False))
    assert round(count(attention_alone), 3) == plain
    assert count(ACmixSAN(depth)) == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(depth=12), r'depth must be one of \(10, 15, 19\), got 12'),
        (dict(kernel_sizes=(3, 7)), r'kernel_sizes must have an entry for each of 5 stages, got \(3, 7\)'),
        (dict(base_channels=16), 'channels must be a multiple of share, got 4 and 8'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)
