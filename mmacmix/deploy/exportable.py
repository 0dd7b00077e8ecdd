"""Networks in the form in which they are exported."""

from collections.abc import Sequence
from copy import deepcopy
from keyword import iskeyword
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..ops import ceil_div, check_torch, padding_to_multiple
from .fusion import fuse

PARTS = ('backbone', 'features', 'segmentor', 'detector')


class Exportable(nn.Module):
    """A fused network, or a part of one, that takes images without preprocessing.

    Args:
        model: The detector or segmentor; it is not modified.
        part: ``'backbone'``; ``'features'``, backbone and neck; ``'segmentor'``, a whole segmentor, with logits in
            the size of the image; or ``'detector'``, a whole detector, see ``mmacmix.deploy.detectors``.

    Raises:
        UserError: The model has no such part, or a head that cannot be exported.
        LibraryError: torch is too old for a whole detector.
    """

    def __init__(self, model: nn.Module, part: str) -> None:
        super().__init__()
        if part not in PARTS:
            raise UserError(f'part must be one of {PARTS}, got {part!r}')
        if part == 'detector':
            detectors().check_detector(model)
        if part == 'segmentor' and not hasattr(getattr(model, 'decode_head', None), 'align_corners'):
            raise UserError(
                f'{type(model).__name__} has no single decode head; export its backbone or features instead'
            )
        self.part = part
        preprocessor = model.data_preprocessor  # mmdet and mmseg spell the attribute differently
        self.swap = any(getattr(preprocessor, name, False) for name in ('channel_conversion', '_channel_conversion'))
        for name in ('mean', 'std'):
            self.register_buffer(name, getattr(preprocessor, name, None))
        self.divisor = getattr(preprocessor, 'pad_size_divisor', 1)
        self.network = deepcopy(model)
        try:
            fuse(self.network, dense=True)  # runtimes are slow with many groups
        except UserError:  # a layer cannot be merged exactly; the network is unchanged
            self.network.eval()
        for module in list(self.network.modules()):
            _replace_pooling(module)
            _replace_upsampling(module)
            _rename_keywords(module)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map images ``(B, 3, H, W)``, 0 to 255, in BGR order as the hosts read them, to a list of outputs.

        Detectors take one image; ``mmacmix.deploy.detectors.Detections`` describes their outputs.
        """
        x = image.flip(1) if self.swap else image
        if self.mean is not None:
            x = (x - self.mean) / self.std
        if self.part == 'backbone':
            return list(self.network.backbone(x))
        if self.part == 'detector':
            size = x.shape[2:]
            bottom, right = (padding_to_multiple(side, self.divisor) for side in size)
            found = detectors().detect(self.network, F.pad(x, (0, right, 0, bottom)), size)
            return [each for each in found if each is not None]
        features = self.network.extract_feat(x)
        if self.part == 'features':
            return list(features)
        head = self.network.decode_head
        return [F.interpolate(head(features), size=x.shape[2:], mode='bilinear', align_corners=head.align_corners)]


def detectors() -> ModuleType:
    """``mmacmix.deploy.detectors``, imported when it is needed, because older versions of torch cannot import it."""
    check_torch('2.6', 'exporting a network')
    from . import detectors

    return detectors


class _AdaptiveAvgPool2d(nn.Module):
    """Adaptive average pooling as two matrix products, which exporters support for maps of any size."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (_averaging_matrix(cells, side, x) for cells, side in zip(self.size, x.shape[2:], strict=True))
        return rows @ x @ columns.T


def _averaging_matrix(cells: int, side: int, like: Tensor) -> Tensor:
    """``(cells, side)``: row i averages pixels ``floor(i * side / cells)`` to ``ceil((i + 1) * side / cells) - 1``."""
    cell, pixel = torch.arange(cells, device=like.device)[:, None], torch.arange(side, device=like.device)
    inside = (pixel >= cell * side // cells) & (pixel < ceil_div((cell + 1) * side, cells))
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)


def _replace_pooling(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            size = child.output_size
            setattr(module, name, _AdaptiveAvgPool2d(size if isinstance(size, tuple) else (size, size)))


def _replace_upsampling(module: nn.Module) -> None:
    """Replace MMSegmentation's ``Upsample``, whose sizes, computed in floats, are constants to exporters."""
    for name, child in module.named_children():
        if type(child).__name__ == 'Upsample' and not isinstance(child, nn.Upsample) and child.scale_factor:
            setattr(module, name, nn.Upsample(None, child.scale_factor, child.mode, child.align_corners))


def _rename_keywords(module: nn.Module) -> None:
    """Rename children such as the ``in`` of MMCV's ConvModule, which torch's exporter writes into Python code."""
    for name, child in [item for item in module.named_children() if iskeyword(item[0])]:
        delattr(module, name)
        module.add_module(f'{name}_', child)
        if getattr(module, 'norm_name', None) == name:
            module.norm_name = f'{name}_'
