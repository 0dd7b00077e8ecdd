"""Exported networks in the place of the model that a runner tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from ..errors import UserError, first_line
from .exporter import METADATA


class ExportedModel(nn.Module):
    """An exported segmentor or detector, run by onnxruntime, for the evaluation loops of the host libraries.

    Args:
        path: A file of ``mmacmix.deploy.export`` with metadata.

    Raises:
        UserError: onnxruntime is not installed, or the file cannot be read, or holds neither a whole segmentor nor a
            whole detector.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f'{path} needs onnxruntime: pip install onnxruntime') from error
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        except Exception as error:
            raise UserError(f'{path} cannot be run by onnxruntime: {first_line(error)}') from error
        metadata = json.loads(self.session.get_modelmeta().custom_metadata_map.get(METADATA, '{}'))
        if metadata.get('part') not in ('segmentor', 'detector'):
            raise UserError(f'{path} is neither a whole segmentor nor a whole detector written by tools/export.py')
        self.path, self.part = path, metadata['part']
        self.size = [side for side in self.session.get_inputs()[0].shape[2:] if isinstance(side, int)]

    def test_step(self, data: dict[str, Any]) -> list[Any]:
        """Add the predictions to the samples of a batch, whose images the file takes one by one."""
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            size = list(image.shape[1:])
            if self.size and size != self.size:
                raise UserError(
                    f'{self.path} takes images of {self.size[0]}x{self.size[1]} only, and the config resizes one to '
                    f'{size[0]}x{size[1]}: evaluate a file for images of any size'
                )
            outputs = self.session.run(None, {'image': image[None].float().numpy()})
            outputs = [torch.from_numpy(each) for each in outputs]
            if self.part == 'segmentor':
                logits = F.interpolate(outputs[0], sample.ori_shape, mode='bilinear')
                sample.pred_sem_seg = PixelData(data=logits.argmax(1))
            else:
                sample.pred_instances = _instances(outputs, sample.scale_factor, sample.ori_shape)
        return data['data_samples']


def _instances(outputs: Sequence[Tensor], scale: Sequence[float], shape: Sequence[int]) -> InstanceData:
    """The detections in the pixels of the image as it is stored."""
    boxes, scores, labels, *masks = outputs
    found = InstanceData(bboxes=boxes / boxes.new_tensor([*scale, *scale]), scores=scores, labels=labels)
    if masks:
        pasted = [_paste(mask, box, shape) >= 0.5 for mask, box in zip(masks[0], found.bboxes, strict=True)]
        found.masks = torch.stack(pasted) if pasted else torch.zeros(0, *shape, dtype=torch.bool)
    return found


def _paste(mask: Tensor, box: Tensor, shape: Sequence[int]) -> Tensor:
    """The probabilities ``(side, side)`` in a box as a map of the image, 0 elsewhere."""
    axes = []
    for low, high, length in ((box[0], box[2], shape[1]), (box[1], box[3], shape[0])):
        centers = torch.arange(length) + 0.5
        axes.append(2 * (centers - low) / (high - low).clamp(min=1e-6) - 1)
    x, y = axes
    grid = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), 2)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
