"""The IoU of each class, which MMSegmentation's own metric prints but does not return."""

from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """MMSegmentation's ``IoUMetric`` that also returns ``IoU/<class>``, in percent, for each class that occurs.

    Importing this module imports MMSegmentation.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        intersections, unions = (sum(areas).tolist() for areas in list(zip(*results, strict=True))[:2])
        classes = zip(self.dataset_meta['classes'], intersections, unions, strict=True)
        return metrics | {f'IoU/{name}': 100 * intersection / union for name, intersection, union in classes if union}
