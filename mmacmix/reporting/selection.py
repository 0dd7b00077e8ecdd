"""The choice of images for the gallery."""

import random
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from mmengine.structures import BaseDataElement


class Judged(NamedTuple):
    """A sample and its ``mmacmix.reporting.image_quality``."""

    quality: float | None
    sample: BaseDataElement


_QUALITY = attrgetter('quality')


class Selection:
    """Candidates for the gallery: of a stream of samples, keeps the worst, the best and a random subset.

    Args:
        images: Images in the gallery, a third of each kind.
    """

    def __init__(self, images: int) -> None:
        self._each = max(1, images // 3)
        self._worst: list[Judged] = []
        self._best: list[Judged] = []
        self._reservoir: list[Judged] = []  # a uniform random subset; some of it is close to the median
        self._seen = 0
        self._random = random.Random(0)  # the global random state belongs to the training

    def add(self, judged: Judged) -> None:
        """Keep a sample if it may be chosen in the end."""
        self._worst = sorted([*self._worst, judged], key=_QUALITY)[: self._each]
        self._best = sorted([*self._best, judged], key=_QUALITY)[-self._each :]
        self._seen += 1
        if len(self._reservoir) < 4 * self._each:
            self._reservoir.append(judged)
        elif (index := self._random.randrange(self._seen)) < len(self._reservoir):
            self._reservoir[index] = judged

    @property
    def candidates(self) -> list[Judged]:
        """All samples kept so far, some of them repeated."""
        return [*self._worst, *self._reservoir, *self._best]


def choose(candidates: Iterable[Judged], median: float, images: int) -> list[Judged]:
    """Choose the worst, the best and those closest to the median, a third each, sorted from worst to best.

    Args:
        candidates: Those of all processes; an image that several processes evaluated counts once.
        median: Median quality of all images.
        images: Samples to choose.
    """
    distinct = sorted({judged.sample.img_path: judged for judged in candidates}.values(), key=_QUALITY)
    each = max(1, images // 3)
    if len(distinct) <= 3 * each:
        return distinct
    middle = sorted(distinct[each:-each], key=lambda judged: abs(judged.quality - median))[:each]
    return [*distinct[:each], *sorted(middle, key=_QUALITY), *distinct[-each:]]
