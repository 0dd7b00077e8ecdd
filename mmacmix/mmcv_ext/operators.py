"""The operators of ``mmcv._ext`` that detectors and segmenters use, on torchvision and PyTorch instead of C++.

``python -m mmacmix.mmcv_ext`` copies this file to ``mmcv/_ext.py`` of an ``mmcv-lite``, whose ``mmcv.ops`` then work.
A compiled ``mmcv._ext`` beside it takes precedence. Functions have the signatures and the semantics of the compiled
ones: results are written into the tensors passed for them, on any device. RoIAlign, deformable convolutions and the
focal loss compute half precision in float32.

nms, RoIAlign and deformable convolutions need torchvision. Operators not defined here raise ``NotImplementedError``
when they are called.
"""

import torch
import torch.nn.functional as F

_TINY = torch.finfo(torch.float32).tiny


def _vision():
    """The namespace of torchvision's operators, which importing torchvision fills."""
    import torchvision  # noqa: F401

    return torch.ops.torchvision


def _full(tensor):
    """The tensor in float32, or in float64 if it has that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def nms(boxes, scores, iou_threshold, offset):
    """Indices of the boxes (N, 4) that remain, highest score first. Widths and heights are ``x2 - x1 + offset``."""
    order = scores.sort(0, descending=True)[1]
    boxes = _full(boxes[order])  # float16 could not tell the ranks below apart
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), 1)
    ranks = torch.arange(len(order), 0, -1, dtype=boxes.dtype, device=boxes.device)
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()  # mmcv's has single precision
    return order[_vision().nms(boxes, ranks, threshold)]


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Indices of the boxes (N, 4) with a decayed score of at least ``min_score``; ``dets`` (N, 5) receives them.

    ``method`` is 0 (hard), 1 (linear) or 2 (Gaussian). Boxes with equal scores are taken in the compiled order.
    """
    scores = scores.clone()
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    order, kept = torch.arange(len(boxes), device=boxes.device), []
    while len(order):
        best = scores[order].argmax()
        i = order[best].clone()
        dets[len(kept)] = torch.cat((boxes[i], scores[i, None]))
        kept.append(i)
        order[best] = order[0]
        order = order[1:]
        corners = torch.minimum(boxes[i, 2:], boxes[order, 2:]) - torch.maximum(boxes[i, :2], boxes[order, :2])
        intersection = (corners + offset).clamp(min=0).prod(1)
        iou = intersection / (areas[i] + areas[order] - intersection)
        if method == 2:
            scores[order] *= torch.exp(-(iou * iou) / sigma)
        else:
            scores[order] *= torch.where(iou >= iou_threshold, 1 - iou if method == 1 else 0.0, 1.0)
        # Boxes from the end fill the places of those that are discarded.
        discarded = scores[order] < min_score
        count = len(order) - int(discarded.sum())
        order[:count][discarded[:count]] = order[count:][~discarded[count:]].flip(0)
        order = order[:count]
    return torch.stack(kept) if kept else order


def roi_align_forward(
    input, rois, output, argmax_y, argmax_x, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode,
    aligned
):  # fmt: skip
    if pool_mode == 0:
        _missing("RoIAlign with pool_mode='max'")
    geometry = spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    output.copy_(_vision().roi_align(_full(input), _full(rois), *geometry))


def roi_align_backward(
    grad_output, rois, argmax_y, argmax_x, grad_input, aligned_height, aligned_width, spatial_scale, sampling_ratio,
    pool_mode, aligned
):  # fmt: skip
    geometry = spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned
    grad_input.add_(_vision()._roi_align_backward(_full(grad_output), _full(rois), *geometry))


def roi_pool_forward(input, rois, output, argmax, pooled_height, pooled_width, spatial_scale):
    """Maxima per bin and their positions in the flat map; an empty bin has the maximum 0 and the position -1.

    torchvision's RoIPool rounds RoIs to whole pixels, so it gives other results than mmcv's.
    """
    height, width = input.shape[2:]
    corners = torch.cat((_full(rois[:, 1:3]), _full(rois[:, 3:]) + 1), 1) * spatial_scale
    bins_y = _bins(corners[:, 1], corners[:, 3], pooled_height, height)
    bins_x = _bins(corners[:, 0], corners[:, 2], pooled_width, width)
    for n, image in enumerate(rois[:, 0].long().tolist()):
        (y, inside_y), (x, inside_x) = (_pixels(first[n], last[n]) for first, last in (bins_y, bins_x))
        y, inside_y = y[:, None, :, None].clamp(max=height - 1), inside_y[:, None, :, None]
        x, inside_x = x[None, :, None, :].clamp(max=width - 1), inside_x[None, :, None, :]
        inside = (inside_y & inside_x).flatten(2)  # (bins, bins, pixels), like the following
        maxima, index = input[image][:, y, x].flatten(3).masked_fill(~inside, -torch.inf).max(-1)
        positions = (y * width + x).flatten(2).expand(len(maxima), -1, -1, -1).gather(-1, index[..., None])[..., 0]
        empty = ~inside.any(-1)
        output[n] = maxima.masked_fill(empty, 0)
        argmax[n] = positions.masked_fill(empty, -1)


def _bins(start, end, count, length):
    """The first pixel of every bin of every RoI, (RoIs, count), and the one after its last, on a side of ``length``."""
    edges = torch.arange(count + 1, device=start.device) * ((end - start) / count)[:, None] + start[:, None]
    first, last = edges[:, :-1].floor(), edges[:, 1:].ceil() * (end > start)[:, None]
    return first.clamp(0, length).long(), last.clamp(0, length).long()


def _pixels(first, last):
    """The pixels of bins, padded to equal length, (bins, pixels), and which of them are not padding."""
    pixels = first[:, None] + torch.arange(max(int((last - first).max()), 1), device=first.device)
    return pixels, pixels < last[:, None]


def roi_pool_backward(grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale):
    images = rois[:, 0].long()[:, None, None]
    channels = torch.arange(grad_input.size(1), device=rois.device)[:, None]
    gradients = grad_output.masked_fill(argmax < 0, 0).flatten(2)
    pixels = argmax.long().clamp(min=0).flatten(2)
    grad_input.flatten(2).index_put_((images, channels, pixels), gradients, accumulate=True)


def _focal_terms(input, target, weight, alpha):
    """Per logit (N, classes): is it the target's, probability of the right and of the wrong answer, factor."""
    p = _full(input).sigmoid()
    positive = target[:, None] == torch.arange(input.size(1), device=input.device)
    factor = torch.where(positive, alpha, 1 - alpha)
    if weight.numel():  # one per class; rows of background keep theirs
        factor = factor * F.pad(weight, (0, 1), value=1.0)[target, None]
    return positive, torch.where(positive, p, 1 - p), torch.where(positive, 1 - p, p), factor


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    _, right, wrong, factor = _focal_terms(input, target, weight, alpha)
    output.copy_(-factor * wrong**gamma * right.clamp(min=_TINY).log())


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha):
    positive, right, wrong, factor = _focal_terms(input, target, weight, alpha)
    slope = factor * wrong**gamma * (wrong - gamma * right * right.clamp(min=_TINY).log())
    grad_input.copy_(torch.where(positive, -slope, slope))


def ms_deform_attn_forward(
    value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights, im2col_step
):
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = value_spatial_shapes.tolist()
    return multi_scale_deformable_attn_pytorch(value, shapes, sampling_locations, attention_weights).to(value.dtype)


def ms_deform_attn_backward(
    value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights, grad_output,
    grad_value, grad_sampling_loc, grad_attn_weight, im2col_step
):  # fmt: skip
    leaves = [x.detach().requires_grad_() for x in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(
            leaves[0], value_spatial_shapes, value_level_start_index, leaves[1], leaves[2], im2col_step
        )
    for total, new in zip(
        (grad_value, grad_sampling_loc, grad_attn_weight), torch.autograd.grad(output, leaves, grad_output), strict=True
    ):
        total.add_(new)


def _deform_conv(input, weight, offset, mask, bias, *geometry):
    """``geometry`` is stride, padding and dilation, height before width, then the groups of both kinds."""
    tensors = map(_full, (input, weight, offset, _or_empty(mask, input), _or_empty(bias, weight)))
    return _vision().deform_conv2d(*tensors, *geometry, mask is not None)


def _deform_conv_backward(grad_output, input, weight, offset, mask, *geometry):
    """Gradients of input, weight, offset, mask and bias."""
    tensors = map(_full, (grad_output, input, weight, offset, _or_empty(mask, input), weight.new_zeros(weight.size(0))))
    return _vision()._deform_conv2d_backward(*tensors, *geometry, mask is not None)


def _or_empty(tensor, like):
    """The tensor, or what torchvision takes for none."""
    return like.new_zeros((like.size(0), 1) if like.dim() else 0) if tensor is None else tensor


def deform_conv_forward(
    input, weight, offset, output, columns, ones, kW, kH, dW, dH, padW, padH, dilationW, dilationH, group,
    deformable_group, im2col_step
):  # fmt: skip
    geometry = dH, dW, padH, padW, dilationH, dilationW, group, deformable_group
    output.copy_(_deform_conv(input, weight, offset, None, None, *geometry))


def deform_conv_backward_input(
    input, offset, grad_output, grad_input, grad_offset, weight, columns, kW, kH, dW, dH, padW, padH, dilationW,
    dilationH, group, deformable_group, im2col_step
):  # fmt: skip
    geometry = dH, dW, padH, padW, dilationH, dilationW, group, deformable_group
    gradients = _deform_conv_backward(grad_output, input, weight, offset, None, *geometry)
    grad_input.add_(gradients[0])
    grad_offset.copy_(gradients[2])


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, kW, kH, dW, dH, padW, padH, dilationW, dilationH, group,
    deformable_group, scale, im2col_step
):  # fmt: skip
    geometry = dH, dW, padH, padW, dilationH, dilationW, group, deformable_group
    gradients = _deform_conv_backward(grad_output, input, torch.zeros_like(grad_weight), offset, None, *geometry)
    grad_weight.add_(gradients[1], alpha=scale)


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w,
    dilation_h, dilation_w, group, deformable_group, with_bias
):  # fmt: skip
    geometry = stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group
    output.copy_(_deform_conv(input, weight, offset, mask, bias if with_bias else None, *geometry))


def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight, grad_bias, grad_offset, grad_mask,
    grad_output, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group,
    deformable_group, with_bias
):  # fmt: skip
    geometry = stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group
    gradients = _deform_conv_backward(grad_output, input, weight, offset, mask, *geometry)
    grad_input.add_(gradients[0])
    grad_weight.add_(gradients[1])
    grad_offset.copy_(gradients[2])
    grad_mask.copy_(gradients[3])
    if with_bias:
        grad_bias.add_(gradients[4])


def get_compiler_version():
    return 'no compiler, torchvision and PyTorch'


def get_compiling_cuda_version():
    return torch.version.cuda or 'not available'


def _missing(name):
    raise NotImplementedError(
        f'{name} is not among the operators that mmacmix provides for mmcv-lite; `make setup MMCV=compiled` in a '
        'checkout of mmacmix builds those of mmcv.'
    )


def __getattr__(name):
    """A function for any other operator, as ``mmcv.ops`` asks for all of them by name when it is imported."""
    if name.startswith('__'):
        raise AttributeError(name)
    return lambda *args, **kwargs: _missing(name)
