"""Intersection over union by class, which MMSegmentation's own metric prints but does not return."""

from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """MMSegmentation's ``IoUMetric``, which also returns each class that occurs: ``IoU/<class>``, in percent.

    Importing this module imports MMSegmentation.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        intersection, union = (sum(areas).tolist() for areas in list(zip(*results, strict=True))[:2])
        classes = zip(self.dataset_meta['classes'], intersection, union, strict=True)
        return metrics | {f'IoU/{name}': 100 * common / whole for name, common, whole in classes if whole}
