"""Which images of an evaluation are worth a look."""

import random
from collections.abc import Iterable
from typing import NamedTuple

from mmengine.structures import BaseDataElement


class Judged(NamedTuple):
    """A sample and its ``mmacmix.reporting.image_quality``."""

    quality: float
    sample: BaseDataElement


class Selection:
    """The worst and the best of many samples, and some around the median, of which there are too many to keep all.

    Args:
        images: Samples to choose, a third of each kind.
    """

    def __init__(self, images: int) -> None:
        self.each = max(1, images // 3)
        self._lowest: list[Judged] = []
        self._highest: list[Judged] = []
        self._anywhere: list[Judged] = []  # a uniform random choice: some of it is near the median
        self._seen = 0
        self._random = random.Random(0)  # the global state belongs to the training

    def add(self, judged: Judged) -> None:
        """Keep a sample if it may be chosen in the end."""
        self._lowest = sorted([*self._lowest, judged], key=_quality)[: self.each]
        self._highest = sorted([*self._highest, judged], key=_quality)[-self.each :]
        self._seen += 1
        if len(self._anywhere) < 4 * self.each:
            self._anywhere.append(judged)
        elif (index := self._random.randrange(self._seen)) < len(self._anywhere):
            self._anywhere[index] = judged

    @property
    def candidates(self) -> list[Judged]:
        """The samples kept so far; one may be in it more than once."""
        return [*self._lowest, *self._anywhere, *self._highest]


def choose(candidates: Iterable[Judged], median: float, images: int) -> list[Judged]:
    """Choose from the candidates of all processes, sorted from worst to best.

    Args:
        candidates: Those of all selections.
        median: Of the qualities of all images.
        images: Samples to choose: the worst, those nearest to the median and the best, a third each.
    """
    # Several processes may have evaluated the same image, to have equally many.
    distinct = sorted({judged.sample.img_path: judged for judged in candidates}.values(), key=_quality)
    each = max(1, images // 3)
    if len(distinct) <= 3 * each:
        return distinct
    middle = sorted(distinct[each:-each], key=lambda judged: abs(judged.quality - median))[:each]
    return [*distinct[:each], *sorted(middle, key=_quality), *distinct[-each:]]


def _quality(judged: Judged) -> float:
    return judged.quality
