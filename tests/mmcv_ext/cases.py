"""Calls of mmcv's operators on fixed inputs.

``python -m tests.mmcv_ext.cases`` records what compiled operators give for ``CASES``, in tests/data/mmcv_operators.npz.
mmcv's CPU build lacks the operators of ``DEFINED``, which are compared with their definitions in float64.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

RECORD = Path(__file__).parents[1] / 'data' / 'mmcv_operators.npz'


def normal(seed, *shape, scale=1.0):
    """Normally distributed numbers, the same with every version of torch and NumPy."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape) * scale).float()


def uniform(seed, *shape):
    return torch.from_numpy(np.random.RandomState(seed).random_sample(shape)).float()


def boxes(seed, count, size=20.0, scale=0.5):
    corners = uniform(seed, count, 2) * size
    return torch.cat((corners, corners + uniform(seed + 1, count, 2) * size * scale), 1)


def with_gradients(function, **inputs):
    """The output of a function and the gradients of its floating-point inputs, for a fixed gradient of the output."""
    leaves = {name: x.clone().requires_grad_(x.is_floating_point()) for name, x in inputs.items()}
    output = function(**leaves)
    grad = torch.linspace(-1, 2, output.numel()).to(output).view(output.mT.shape).mT  # not contiguous
    output.backward(grad)
    return {'output': output.detach()} | {
        f'grad_{name}': x.grad for name, x in leaves.items() if x.grad is not None
    }  # fmt: skip


def kept(operator, *args, **arguments):
    detections, indices = operator(*args, **arguments)
    return {'detections': detections, 'indices': indices}


def nms(**arguments):
    from mmcv.ops import nms

    return kept(nms, boxes(0, 200), uniform(2, 200), **arguments)


def nms_at_threshold():
    """Integer boxes, among which there are pairs whose IoU is the threshold or rounds to it."""
    from mmcv.ops import nms

    corners = torch.from_numpy(np.random.RandomState(3).randint(0, 4, (400, 2)))
    sizes = torch.from_numpy(np.random.RandomState(4).randint(1, 11, (400, 2)))
    return kept(nms, torch.cat((corners, corners + sizes), 1).float(), uniform(5, 400), iou_threshold=0.6)


def batched_nms(**arguments):
    from mmcv.ops import batched_nms

    classes = torch.from_numpy(np.random.RandomState(6).randint(0, 5, 300))
    return kept(batched_nms, boxes(7, 300), uniform(9, 300), classes, **arguments)


def soft_nms(**arguments):
    """Scores come in pairs of equal ones."""
    from mmcv.ops import soft_nms

    return kept(soft_nms, boxes(10, 120), uniform(12, 60).repeat(2), **arguments)


def no_boxes(name):
    import mmcv.ops

    return kept(getattr(mmcv.ops, name), torch.zeros(0, 4), torch.zeros(0), iou_threshold=0.5)


def rois(seed, count=6):
    """Regions in two images of 24 by 20 pixels; some reach over the border."""
    image = torch.arange(count).float()[:, None] % 2
    return torch.cat((image, boxes(seed, count, 22.0, 0.7) - 2), 1)


def roi_align(count=6, **arguments):
    from mmcv.ops import RoIAlign

    layer = RoIAlign((3, 2), spatial_scale=0.5, **arguments)
    regions = rois(13, count)
    return with_gradients(lambda features: layer(features, regions), features=normal(15, 2, 3, 12, 10))


def deform_conv(stride=1, padding=1, dilation=1, groups=1, deform_groups=1, im2col_step=32, batch=2):
    from mmcv.ops import deform_conv2d

    features, weight, geometry = conv_inputs(stride, padding, dilation, groups, batch)
    size = torch.nn.functional.conv2d(features, weight, None, *geometry).shape[2:]
    return with_gradients(
        lambda features, offset, weight: deform_conv2d(
            features, offset, weight, *geometry, deform_groups, False, im2col_step
        ),
        features=features, offset=normal(18, batch, deform_groups * 12, *size, scale=2), weight=weight,
    )  # fmt: skip


def modulated_deform_conv(stride=1, padding=1, dilation=1, groups=1, deform_groups=1, bias=True):
    from mmcv.ops import modulated_deform_conv2d

    features, weight, geometry = conv_inputs(stride, padding, dilation, groups, 2)
    size = torch.nn.functional.conv2d(features, weight, None, *geometry).shape[2:]
    inputs = dict(
        features=features, weight=weight, mask=uniform(19, 2, deform_groups * 6, *size),
        offset=normal(18, 2, deform_groups * 12, *size, scale=2),
    )  # fmt: skip
    if bias:
        inputs['bias'] = normal(20, 6)
    return with_gradients(
        lambda features, offset, mask, weight, bias=None: modulated_deform_conv2d(
            features, offset, mask, weight, bias, *geometry, deform_groups
        ),
        **inputs,
    )


def conv_inputs(stride, padding, dilation, groups, batch):
    geometry = stride, padding, dilation, groups
    return normal(16, batch, 4, 9, 8), normal(17, 6, 4 // groups, 2, 3, scale=0.3), geometry


def accumulated_weight_gradient():
    """mmcv adds the scaled gradient of the weight to what is there."""
    from mmcv.ops.deform_conv import ext_module

    total = torch.ones(6, 4, 2, 3)
    ext_module.deform_conv_backward_parameters(
        normal(16, 2, 4, 9, 8), normal(18, 2, 12, 8, 6), normal(21, 2, 6, 8, 6), total, torch.empty(0), torch.empty(0),
        kW=3, kH=2, dW=1, dH=1, padW=0, padH=0, dilationW=1, dilationH=1, group=1, deformable_group=1, scale=0.5,
        im2col_step=2,
    )  # fmt: skip
    return {'total': total}


CASES = {
    'nms': partial(nms, iou_threshold=0.3),
    'nms_offset': partial(nms, iou_threshold=0.3, offset=1),
    'nms_limits': partial(nms, iou_threshold=0.5, score_threshold=0.2, max_num=30),
    'nms_at_threshold': nms_at_threshold,
    'nms_empty': partial(no_boxes, 'nms'),
    'batched_nms': partial(batched_nms, nms_cfg=dict(type='nms', iou_threshold=0.4)),
    'batched_nms_split': partial(batched_nms, nms_cfg=dict(type='nms', iou_threshold=0.4, split_thr=100)),
    'batched_soft_nms': partial(batched_nms, nms_cfg=dict(type='soft_nms', iou_threshold=0.4, min_score=0.05)),
    'soft_nms_naive': partial(soft_nms, method='naive', iou_threshold=0.3),
    'soft_nms_linear': partial(soft_nms, method='linear', iou_threshold=0.3, min_score=0.1),
    'soft_nms_gaussian': partial(soft_nms, method='gaussian', sigma=0.4, min_score=0.05, offset=1),
    'soft_nms_empty': partial(no_boxes, 'soft_nms'),
    'roi_align': roi_align,
    'roi_align_sampling': partial(roi_align, sampling_ratio=2),
    'roi_align_legacy': partial(roi_align, aligned=False),
    'roi_align_empty': partial(roi_align, count=0),
    'deform_conv': deform_conv,
    'deform_conv_groups': partial(deform_conv, (2, 1), (0, 1), (1, 2), groups=2, deform_groups=2),
    'deform_conv_steps': partial(deform_conv, im2col_step=2, batch=4),
    'deform_conv_accumulates': accumulated_weight_gradient,
    'modulated_deform_conv': modulated_deform_conv,
    'modulated_deform_conv_groups': partial(modulated_deform_conv, (1, 2), (1, 0), (2, 1), 2, 4, bias=False),
}
EXACT = ('nms', 'batched_nms')


def focal_loss(weight=None, dtype=torch.float32):
    from mmcv.ops import sigmoid_focal_loss

    return with_gradients(
        lambda logits: sigmoid_focal_loss(logits, *focal_inputs(), weight, 'none'), logits=logits(dtype)
    )


def focal_loss_defined(weight=None):
    def loss(logits):
        p = logits.sigmoid()
        positive = torch.nn.functional.one_hot(focal_inputs()[0], 6)[:, :5].bool()
        loss = torch.where(positive, -0.3 * (1 - p) ** 1.5 * p.log(), -0.7 * p**1.5 * (1 - p).log())
        return loss if weight is None else loss * weight[focal_inputs()[0]][:, None]

    return with_gradients(loss, logits=logits(torch.float64))


def logits(dtype):
    return normal(22, 12, 5, scale=2).to(dtype)


def focal_inputs():
    """Targets, of which some are background, gamma and alpha."""
    return torch.arange(12) % 6, 1.5, 0.3


def deformable_attention():
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    inputs = attention_inputs()
    shapes, starts = torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])
    return with_gradients(
        lambda value, locations, weights: MultiScaleDeformableAttnFunction.apply(
            value, shapes, starts, locations, weights, 64
        ),
        **inputs,
    )


def attention_inputs():
    """Values (2, 20 + 6, 3 heads, 4), and locations (x, y) of which some are outside."""
    return dict(
        value=normal(23, 2, 26, 3, 4),
        locations=uniform(24, 2, 7, 3, 2, 2, 2) * 1.4 - 0.2,
        weights=normal(25, 2, 7, 3, 2, 2),
    )


def deformable_attention_defined():
    def attend(value, locations, weights):
        output = value.new_zeros(2, 7, 3, 4)
        for level, (height, width, start) in enumerate(((4, 5, 0), (2, 3, 20))):
            features = value[:, start : start + height * width].unflatten(1, (height, width))
            for point in range(2):
                x, y = (locations[:, :, :, level, point] * torch.tensor([width, height]) - 0.5).unbind(-1)
                for column in (x.floor().detach(), x.floor().detach() + 1):
                    for row in (y.floor().detach(), y.floor().detach() + 1):
                        near = (1 - (x - column).abs()) * (1 - (y - row).abs())
                        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                        image, head = torch.arange(2)[:, None, None], torch.arange(3)
                        sample = features[
                            image, row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long(), head
                        ]
                        output = output + (weights[:, :, :, level, point] * near * inside)[..., None] * sample
        return output.flatten(2)

    return with_gradients(attend, **{name: x.double() for name, x in attention_inputs().items()})


def roi_pool():
    from mmcv.ops import RoIPool

    layer = RoIPool((3, 2), spatial_scale=0.5)
    return with_gradients(lambda features: layer(features, pool_regions()), features=pool_features())


def pool_features():
    """The first pixel of every map is the greatest."""
    features = normal(15, 2, 3, 12, 10)
    features[:, :, 0, 0] = 9
    return features


def pool_regions():
    """The last three regions have the first pixel, are outside the image, and are turned around."""
    return torch.cat((rois(13), torch.tensor([[0, -1, -1, 3, 3], [0, 40, 40, 50, 50], [1, 9.2, 9.2, 8, 8]])))


def roi_pool_defined():
    def pool(features):
        output = torch.zeros(9, 3, 3, 2, dtype=torch.float64)
        for n, (image, x1, y1, x2, y2) in enumerate(pool_regions().double().tolist()):
            width, height = (x2 + 1 - x1) / 2 / 2, (y2 + 1 - y1) / 2 / 3  # of a bin, in pixels of the map
            for i in range(3):
                for j in range(2):
                    top, left = int(np.floor(y1 / 2 + i * height)), int(np.floor(x1 / 2 + j * width))
                    bottom, right = int(np.ceil(y1 / 2 + (i + 1) * height)), int(np.ceil(x1 / 2 + (j + 1) * width))
                    window = features[int(image), :, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
                    if window.numel() and width > 0 and height > 0:
                        output[n, :, i, j] = window.flatten(1).max(1).values
        return output

    return with_gradients(pool, features=pool_features().double())


# A call, and its definition.
DEFINED = {
    'focal_loss': (focal_loss, focal_loss_defined),
    'deformable_attention': (deformable_attention, deformable_attention_defined),
    'roi_pool': (roi_pool, roi_pool_defined),
}


def record():
    import mmcv._ext

    if mmcv._ext.__file__.endswith('.py'):
        raise SystemExit('The record is made with the compiled operators of mmcv.')
    np.savez_compressed(
        RECORD, **{f'{name}/{key}': value.numpy() for name, case in CASES.items() for key, value in case().items()}
    )


if __name__ == '__main__':
    record()
