"""Intersection over union class by class, which MMSegmentation's own metric prints but does not return."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.structures import BaseDataElement


class ClassIoU:
    """Intersection over union of each class over a data set, with the arithmetic of MMSegmentation's ``IoUMetric``.

    Args:
        classes: Names of the classes.
        images: Images of the data set. Several processes share them in turn and fill the last round with images
            that were there before, which don't count.
        ignore_index: Label of pixels that don't count. Default: 255.
    """

    def __init__(self, classes: Sequence[str], images: int, ignore_index: int = 255) -> None:
        self.classes, self.images, self.ignore_index = classes, images, ignore_index
        self._seen = 0
        self._areas = torch.zeros(
            4, len(classes), dtype=torch.float64
        )  # of intersection, union, prediction, ground truth

    def add(self, samples: Sequence[BaseDataElement]) -> None:
        """Count samples with ``gt_sem_seg`` and ``pred_sem_seg``; others are passed over."""
        from mmseg.evaluation import IoUMetric

        for sample in samples:
            index = self._seen * get_world_size() + get_rank()
            self._seen += 1
            if index >= self.images or 'gt_sem_seg' not in sample or 'pred_sem_seg' not in sample:
                continue
            predicted, truth = (sample.get(name).data.squeeze().cpu() for name in ('pred_sem_seg', 'gt_sem_seg'))
            areas = IoUMetric.intersect_and_union(predicted, truth, len(self.classes), self.ignore_index)
            self._areas += torch.stack([area.cpu() for area in areas])

    def compute(self) -> dict[str, float]:
        """Class to IoU in percent, of all processes together; a class that is nowhere has none."""
        areas = self._areas.clone()
        all_reduce(areas)
        intersection, union = areas[:2].tolist()
        return {
            name: 100 * common / whole
            for name, common, whole in zip(self.classes, intersection, union, strict=True)
            if whole
        }
