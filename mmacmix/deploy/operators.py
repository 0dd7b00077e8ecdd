"""Non-maximum suppression and RoIAlign as single operations of an exported graph, and their form in ONNX.

Traced step by step, both would fix the number of boxes. In torch they are MMCV's operators.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op('mmacmix_deploy::select_boxes', mutates_args=())
def select_boxes(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, score_threshold: float, most: int
) -> Tensor:
    """Non-maximum suppression among the boxes of each group.

    Args:
        boxes: ``(n, 4)``: left, top, right, bottom.
        scores: ``(n,)``.
        groups: ``(n,)``, int64. Boxes suppress others of their group only.
        iou_threshold: Intersection over union from which a box suppresses those with lower scores.
        score_threshold: Only boxes with higher scores are considered.
        most: Boxes to keep.

    Returns:
        Indices of the kept boxes, sorted by score.
    """
    from mmcv.ops import batched_nms

    (candidates,) = torch.where(scores > score_threshold)
    if not len(candidates):
        return candidates
    arguments = (each[candidates] for each in (boxes, scores, groups))
    _, kept = batched_nms(*arguments, dict(type='nms', iou_threshold=iou_threshold))
    return candidates[kept[:most]]


@select_boxes.register_fake
def _(boxes, scores, groups, iou_threshold, score_threshold, most):
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(min=1), dtype=torch.int64)


@torch.library.custom_op('mmacmix_deploy::align_regions', mutates_args=())
def align_regions(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, scales: Sequence[float], size: int, sampling_ratio: int
) -> Tensor:
    """RoIAlign of each box on its level of a feature pyramid (half-pixel centres, averages).

    Args:
        maps: One ``(1, C, H, W)`` per level.
        boxes: ``(n, 4)``, in pixels of the image.
        levels: ``(n,)``, int64.
        scales: Pixels of a level's map per pixel of the image.
        size: Side of the result.
        sampling_ratio: Samples per cell and axis; 0 means as many as the cell has pixels.

    Returns:
        ``(n, C, size, size)``.
    """
    from mmcv.ops import roi_align

    out = boxes.new_zeros(len(boxes), maps[0].shape[1], size, size)
    regions = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), 1)
    for level, (features, scale) in enumerate(zip(maps, scales, strict=True)):
        (of_level,) = torch.where(levels == level)
        if len(of_level):
            # The last argument: half-pixel centres.
            out[of_level] = roi_align(features, regions[of_level], size, scale, sampling_ratio, 'avg', True)
    return out


@align_regions.register_fake
def _(maps, boxes, levels, scales, size, sampling_ratio):
    return boxes.new_empty(boxes.shape[0], maps[0].shape[1], size, size)


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """The operations in ONNX's standard operators, for ``torch.onnx.export``."""
    from onnxscript import opset18 as op

    def onnx_select_boxes(boxes, scores, groups, iou_threshold: float, score_threshold: float, most: int):
        offsets = op.Mul(op.CastLike(groups, boxes), op.Add(op.ReduceMax(boxes, keepdims=0), 1.0))
        apart = op.Unsqueeze(op.Add(boxes, op.Unsqueeze(offsets, [1])), [0])
        kept = op.NonMaxSuppression(apart, op.Unsqueeze(scores, [0, 1]), [most], [iou_threshold], [score_threshold])
        return op.Squeeze(op.Slice(kept, [2], [3], [1]), [1])  # image, class, box

    def onnx_align_regions(maps, boxes, levels, scales, size: int, sampling_ratio: int):
        order, parts = [], []
        for level, (features, scale) in enumerate(zip(maps, scales, strict=True)):
            of_level = op.Squeeze(op.NonZero(op.Equal(levels, op.Constant(value_int=level))), [0])
            image = op.Mul(of_level, op.Constant(value_int=0))
            parts.append(
                op.RoiAlign(
                    features, op.Gather(boxes, of_level), image,
                    coordinate_transformation_mode='half_pixel', mode='avg', output_height=size, output_width=size,
                    sampling_ratio=sampling_ratio, spatial_scale=scale,
                )
            )  # fmt: skip
            order.append(of_level)
        if len(parts) == 1:
            return parts[0]
        order, parts = op.Concat(*order, axis=0), op.Concat(*parts, axis=0)
        indices = op.Range(op.Constant(value_int=0), op.Squeeze(op.Shape(order), [0]), op.Constant(value_int=1))
        return op.Gather(parts, op.ScatterElements(order, order, indices))

    operators = torch.ops.mmacmix_deploy
    return {
        operators.select_boxes.default: onnx_select_boxes,
        operators.align_regions.default: onnx_align_regions,
    }
