"""Whole detectors for export: from a normalised image to boxes, scores, labels and masks.

What the heads of MMDetection do with a list of samples is written here for one image and in operations that exporters
can record: no lists of results, no branches on what was found. Weights, anchors, coders and thresholds are the heads'.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from .operators import align_regions, select_boxes


class Detections(NamedTuple):
    """What a detector finds in an image, sorted by score."""

    boxes: Tensor  # (n, 4): left, top, right, bottom in pixels
    scores: Tensor  # (n,)
    labels: Tensor  # (n,), int64
    masks: Tensor | None  # (n, side, side): probabilities within the box, or None


def check_detector(model: nn.Module) -> None:
    """Check that ``detect`` supports a detector.

    Raises:
        UserError: It has another head, or a part of a head is of another type; the message names it.
    """
    name = type(model).__name__
    if hasattr(model, 'roi_head') and hasattr(model, 'rpn_head'):
        heads = [model.rpn_head, *_stages(model.roi_head.bbox_head)]
        expected = {
            'rpn_head': (model.rpn_head, ['RPNHead']),
            'roi_head': (model.roi_head, ['StandardRoIHead', 'CascadeRoIHead']),
            'mask_head': (next(iter(_stages(getattr(model.roi_head, 'mask_head', None))), None), ['FCNMaskHead']),
        }
        configs = [model.rpn_head.test_cfg, model.roi_head.test_cfg]
    elif hasattr(model, 'bbox_head'):
        heads = [model.bbox_head]
        expected = {'bbox_head': (model.bbox_head, ['RetinaHead'])}
        configs = [model.bbox_head.test_cfg]
    else:
        raise UserError(f'{name} is neither a two-stage detector nor one with a single bbox_head')
    for part, (module, types) in expected.items():
        if module is not None and type(module).__name__ not in types:
            raise UserError(f'the {part} of {name} is a {type(module).__name__}; {" or ".join(types)} can be exported')
    for head in heads:
        coder = type(head.bbox_coder).__name__
        if coder != 'DeltaXYWHBBoxCoder':
            raise UserError(f'{type(head).__name__} has a {coder}; DeltaXYWHBBoxCoder can be exported')
    for cfg in configs:
        if cfg.nms.get('type', 'nms') != 'nms':
            raise UserError(f'the test_cfg of {name} has nms of type {cfg.nms.type!r}; "nms" can be exported')


def detect(model: nn.Module, x: Tensor, size: tuple[int, int]) -> Detections:
    """Detect objects as the model's ``predict`` does.

    Args:
        model: A detector that passes ``check_detector``, in evaluation mode.
        x: ``(1, 3, H, W)``, normalised and padded.
        size: Height and width before padding, to which boxes are clipped.
    """
    features = model.extract_feat(x)
    if hasattr(model, 'roi_head'):
        return _refine(model.roi_head, features, _propose(model.rpn_head, features, size), size)
    head = model.bbox_head
    boxes, scores, labels, _ = _candidates(head, head(features), head.test_cfg, size)
    kept = select_boxes(
        boxes, scores, labels, head.test_cfg.nms.iou_threshold, head.test_cfg.score_thr, head.test_cfg.max_per_img
    )
    return Detections(*(each.index_select(0, kept) for each in (boxes, scores, labels)), None)


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference between the scores of equal detections: same label, boxes that overlap by 0.9.

    What only one list has counts with its score, unless the other list is full of better ones.
    """
    largest = 0.0
    for (boxes, scores, labels, *_), others in ((ours, theirs), (theirs, ours)):
        equal = (_overlaps(boxes, others[0]) > 0.9) & (labels[:, None] == others[2])
        apart = (scores[:, None] - others[1]).abs().masked_fill(~equal, float('inf'))
        apart = torch.cat((apart, scores[:, None]), 1).amin(1)
        lowest = others[1].min() if len(others[1]) else 0
        largest = max([largest, *apart[scores > lowest + 1e-3].tolist()])
    return largest


def _overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each pair: ``(n, m)``."""
    corners = torch.minimum(boxes[:, None, 2:], others[:, 2:]) - torch.maximum(boxes[:, None, :2], others[:, :2])
    common = corners.clamp(min=0).prod(2)
    areas, other_areas = ((each[:, 2:] - each[:, :2]).prod(1) for each in (boxes, others))
    return common / (areas[:, None] + other_areas - common).clamp(min=1e-12)


def _propose(head: nn.Module, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The proposals of a region proposal network, ``(n, 4)``."""
    cfg = head.test_cfg
    boxes, scores, _, levels = _candidates(head, head(features), cfg, size)
    return boxes.index_select(0, select_boxes(boxes, scores, levels, cfg.nms.iou_threshold, -0.5, cfg.max_per_img))


def _candidates(
    head: nn.Module, outputs: Sequence[Sequence[Tensor]], cfg: Any, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best ``nms_pre`` anchors of each level: boxes, scores (-1 for too small ones), labels and levels."""
    boxes, scores, labels, levels = [], [], [], []
    anchors = head.prior_generator.grid_priors([each.shape[2:] for each in outputs[0]], device=outputs[0][0].device)
    for level, (logits, deltas, priors) in enumerate(zip(*outputs, anchors, strict=True)):
        logits = logits[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)
        of_level = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(1)[:, :-1]
        classes = of_level.shape[1]
        of_level = of_level.flatten()
        count = torch.sym_min(cfg.nms_pre, of_level.shape[0]) if cfg.get('nms_pre', -1) > 0 else of_level.shape[0]
        best, indices = of_level.topk(count)
        anchor = indices // classes
        boxes.append(_decode(head.bbox_coder, priors.index_select(0, anchor), deltas.index_select(0, anchor), size))
        scores.append(best)
        labels.append(indices % classes)
        levels.append(torch.full_like(indices, level))
    boxes, scores, labels, levels = map(torch.cat, (boxes, scores, labels, levels))
    smallest = cfg.get('min_bbox_size', -1)
    if smallest >= 0:
        sides = boxes[:, 2:] - boxes[:, :2]
        scores = torch.where((sides > smallest).all(1), scores, -1)
    return boxes, scores, labels, levels


def _refine(head: nn.Module, features: Sequence[Tensor], boxes: Tensor, size: tuple[int, int]) -> Detections:
    """Classify proposals and adjust their boxes, in one stage or several, and predict masks."""
    stages, extractors = _stages(head.bbox_head), _stages(head.bbox_roi_extractor)
    logits = []
    for stage, (bbox_head, extractor) in enumerate(zip(stages, extractors, strict=True)):
        of_classes, deltas = bbox_head(_regions(extractor, features, boxes))
        logits.append(of_classes)
        if stage + 1 < len(stages):
            if not bbox_head.reg_class_agnostic:
                best = of_classes[:, :-1].argmax(1)
                deltas = _of_label(deltas.unflatten(1, (-1, 4)), best)
            boxes = _decode(bbox_head.bbox_coder, boxes, deltas, size)
    scores = (sum(logits) / len(stages)).softmax(1)[:, :-1]
    classes, cfg = scores.shape[1], head.test_cfg
    per_box = 1 if bbox_head.reg_class_agnostic else classes
    boxes = boxes[:, None].expand(-1, per_box, -1).reshape(-1, 4)
    boxes = _decode(bbox_head.bbox_coder, boxes, deltas.reshape(-1, 4), size)
    if per_box < classes:
        boxes = boxes[:, None].expand(-1, classes, -1).reshape(-1, 4)
    labels = torch.arange(classes, device=scores.device).expand_as(scores).reshape(-1)
    scores = scores.reshape(-1)
    kept = select_boxes(boxes, scores, labels, cfg.nms.iou_threshold, cfg.score_thr, cfg.max_per_img)
    boxes, scores, labels = (each.index_select(0, kept) for each in (boxes, scores, labels))
    masks = None
    if head.with_mask:
        extractors = _stages(getattr(head, 'mask_roi_extractor', head.bbox_roi_extractor))
        of_stages = []
        for mask_head, extractor in zip(_stages(head.mask_head), extractors, strict=True):
            probabilities = mask_head(_regions(extractor, features, boxes)).sigmoid()
            of_stages.append(probabilities[:, 0] if mask_head.class_agnostic else _of_label(probabilities, labels))
        masks = sum(of_stages) / len(of_stages)
    return Detections(boxes, scores, labels, masks)


def _stages(parts: nn.Module | Sequence[nn.Module] | None) -> Sequence[nn.Module]:
    """The parts of all stages of a cascade, or of the only one."""
    if parts is None:
        return []
    return parts if isinstance(parts, nn.ModuleList) else [parts]


def _of_label(values: Tensor, labels: Tensor) -> Tensor:
    """``(n, classes, ...)``, ``(n,)`` -> ``(n, ...)``."""
    index = labels.view(-1, *[1] * (values.dim() - 1)).expand(-1, 1, *values.shape[2:])
    return values.gather(1, index)[:, 0]


def _regions(extractor: nn.Module, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """The features in boxes: ``(n, C, side, side)``; larger boxes are found on higher levels."""
    layers = extractor.roi_layers
    features = list(features[: len(layers)])
    sides = boxes[:, 2:] - boxes[:, :2]
    level = torch.floor(torch.log2(sides.prod(1).sqrt() / extractor.finest_scale + 1e-6))
    scales = [layer.spatial_scale for layer in layers]
    side, sampling_ratio = layers[0].output_size[0], layers[0].sampling_ratio
    return align_regions(features, boxes, level.clamp(0, len(layers) - 1).long(), scales, side, sampling_ratio)


def _decode(coder: Any, boxes: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes moved and scaled by deltas ``(n, 4)`` (arXiv 1311.2524, appendix C), clipped to the image."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    centres = centres + sides * deltas[:, :2]
    limit = 4.135166556742356  # log(1000 / 16), the coder's
    half = sides * deltas[:, 2:].clamp(-limit, limit).exp() / 2
    corners = torch.cat((centres - half, centres + half), 1).clamp(min=0)
    height, width = size
    limits = (torch.full_like(corners[:, :1], side) for side in (width, height, width, height))
    return torch.minimum(corners, torch.cat(list(limits), 1))
