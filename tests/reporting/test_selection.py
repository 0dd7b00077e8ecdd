"""The chosen images are the worst, the best and those closest to the median, as sorting all images gives them."""

import random
import statistics
from types import SimpleNamespace

import pytest

from mmacmix.reporting.selection import Judged, Selection, choose


def judged(qualities):
    return [Judged(quality, SimpleNamespace(img_path=f'{index}.png')) for index, quality in enumerate(qualities)]


def select(samples, images):
    selection = Selection(images)
    for sample in samples:
        selection.add(sample)
    return selection.candidates


def median_of(samples):
    return statistics.median(sample.quality for sample in samples)


def by_sorting(samples, images):
    """Worst, middle and best of all samples."""
    each = max(1, images // 3)
    samples = sorted(samples)
    rest = samples[each : len(samples) - each]
    middle = sorted(sorted(rest, key=lambda sample: abs(sample.quality - median_of(samples)))[:each])
    return samples if len(samples) <= 3 * each else samples[:each] + middle + samples[-each:]


@pytest.mark.parametrize(
    'images, number', [(1, 1), (1, 4), (3, 2), (3, 4), (12, 3), (12, 12), (12, 13), (12, 16), (13, 15)]
)
@pytest.mark.parametrize('processes', [1, 2])
def test_a_few_samples_are_chosen_as_by_sorting_all(images, number, processes):
    # Skewed, so that the worst samples are closer to the median than most others.
    samples = judged(random.Random(0).sample([2**exponent for exponent in range(number)], number))
    # Several processes may evaluate the same images.
    candidates = [sample for rank in range(processes) for sample in select(samples[rank:], images)]
    assert choose(candidates, median_of(samples), images) == by_sorting(samples, images)


@pytest.mark.parametrize('seed', range(5))
def test_of_many_samples_the_worst_and_best_are_exact_and_the_middle_is_close(seed):
    samples = judged(random.Random(seed).sample(range(10000), 1000))
    random.seed(seed)
    state = random.getstate()
    candidates = select(samples, 12)
    assert random.getstate() == state and len(candidates) == 4 + 16 + 4
    chosen, expected = choose(candidates, median_of(samples), 12), by_sorting(samples, 12)
    assert chosen[:4] == expected[:4] and chosen[-4:] == expected[-4:]
    ranks = [sorted(samples).index(sample) for sample in chosen[4:8]]
    assert all(200 < rank < 800 for rank in ranks) and ranks == sorted(ranks)
