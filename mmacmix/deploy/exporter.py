"""Networks as files that run without this package: ONNX, and torch's own format."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from keyword import iskeyword
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .fusion import fuse

FORMATS = {'onnx': '.onnx', 'torch-export': '.pt2'}
PARTS = ('backbone', 'features', 'segmentor')


class Exportable(nn.Module):
    """A part of a detector or segmentor, fused, from images as they are to maps.

    Args:
        model: The detector or segmentor; left as it is.
        part: ``'backbone'``; ``'features'``: backbone and neck; ``'segmentor'``: all of a segmentor, to logits in the
            size of the image.

    Raises:
        UserError: The model has no such part.
    """

    def __init__(self, model: nn.Module, part: str) -> None:
        super().__init__()
        if part not in PARTS:
            raise UserError(f'part must be one of {PARTS}, got {part!r}')
        if part == 'segmentor' and not hasattr(model, 'decode_head'):
            raise UserError(
                f'{type(model).__name__} is no segmentor: what can be exported of it is backbone or features'
            )
        self.part = part
        preprocessor = model.data_preprocessor
        self.swap = bool(
            getattr(preprocessor, 'channel_conversion', getattr(preprocessor, '_channel_conversion', False))
        )
        for name in ('mean', 'std'):
            self.register_buffer(name, getattr(preprocessor, name, None))
        self.network = deepcopy(model)
        try:
            fuse(self.network)
        except ValueError:  # a layer cannot be merged exactly, and nothing has been
            self.network.eval()
        _replace_pooling(self.network)
        _rename_keywords(self.network)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps of images ``(B, 3, H, W)``, 0 to 255, BGR as the host library reads them."""
        x = image.flip(1) if self.swap else image
        if self.mean is not None:
            x = (x - self.mean) / self.std
        if self.part == 'backbone':
            return list(self.network.backbone(x))
        features = self.network.extract_feat(x)
        if self.part == 'features':
            return list(features)
        head = self.network.decode_head
        return [F.interpolate(head(features), size=x.shape[2:], mode='bilinear', align_corners=head.align_corners)]


class _AdaptiveAvgPool2d(nn.Module):
    """As torch's, in two matrix products: exporters know it for maps of any size."""

    def __init__(self, sides: Sequence[int]) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        down, across = (_averages(side, length, x) for side, length in zip(self.sides, x.shape[2:], strict=True))
        return down @ x @ across.T


def _averages(side: int, length: int, like: Tensor) -> Tensor:
    """``(side, length)``: row i averages the pixels from ``floor(i * length / side)`` to the ``ceil`` of the next."""
    cell, pixel = torch.arange(side, device=like.device)[:, None], torch.arange(length, device=like.device)
    inside = (pixel >= cell * length // side) & (pixel < -((cell + 1) * -length // side))
    inside = inside.to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def _replace_pooling(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                sides = child.output_size if isinstance(child.output_size, tuple) else (child.output_size,) * 2
                setattr(module, name, _AdaptiveAvgPool2d(sides))


def _rename_keywords(network: nn.Module) -> None:
    """MMCV's ConvModule calls instance normalisation ``in``, which torch's exporter writes into Python code."""
    for module in list(network.modules()):
        for name, child in [item for item in module.named_children() if iskeyword(item[0])]:
            delattr(module, name)
            module.add_module(f'{name}_', child)
            if getattr(module, 'norm_name', None) == name:
                module.norm_name = f'{name}_'


class Exported(NamedTuple):
    """What became of a network."""

    smallest: tuple[int, int]  # height and width of the smallest images that the file takes
    opset: int | None  # of ONNX


@torch.no_grad()
def export(network: Exportable, path: str | Path, form: str, size: Sequence[int] = (512, 544)) -> Exported:
    """Write a network to a file that takes any number of images of any height and width above a smallest one.

    Args:
        network: What to write.
        path: The file.
        form: ``'onnx'`` or ``'torch-export'``.
        size: Height and width of the example that the network is traced with. Small ones rule out large images: which
            windows Swin shifts depends on it. Default: ``(512, 544)``.

    Raises:
        UserError: There is no such format.
    """
    if form not in FORMATS:
        raise UserError(f'form must be one of {tuple(FORMATS)}, got {form!r}')
    free = torch.export.Dim.DYNAMIC
    image = torch.rand(2, 3, *size) * 255
    program = torch.export.export(network.eval(), (image,), dynamic_shapes=[{0: free, 2: free, 3: free}])
    smallest = _smallest(program)
    if form == 'torch-export':
        torch.export.save(program, path)
        return Exported(smallest, None)
    levels = len(program.graph_signature.user_outputs)
    names = ['logits'] if network.part == 'segmentor' else [f'level{level}' for level in range(levels)]
    exported = torch.onnx.export(program, (), input_names=['image'], output_names=names, verbose=False)
    exported.save(path)
    return Exported(smallest, exported.model.opset_imports[''])


def _smallest(program: torch.export.ExportedProgram) -> tuple[int, int]:
    """Height and width of the smallest images that a traced program takes, both as far above the smallest that its
    ranges say as its guards want."""
    (placeholder,) = (node for node in program.graph.nodes if node.name == 'image')
    example, network = placeholder.meta['val'], program.module()
    height, width = (int(program.range_constraints[side.node.expr].lower) for side in example.shape[2:])
    for more in range(512):
        try:
            network(torch.zeros(1, 3, height + more, width + more))
        except AssertionError:  # a guard, all of which stand before the network
            continue
        return height + more, width + more
    raise UserError('the network takes images of a few sizes alone')


def load(path: str | Path) -> Callable[[Tensor], list[Tensor]]:
    """An exported file as a function from images to maps; an ONNX file takes onnxruntime.

    A ``.pt2`` file can hold code, which ``torch.export.load`` runs: only for files whose authors you trust.
    """
    if Path(path).suffix == FORMATS['torch-export']:
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return lambda image: [torch.from_numpy(out) for out in session.run(None, {'image': image.numpy()})]


@torch.no_grad()
def difference(network: Exportable, exported: Callable[[Tensor], list[Tensor]], image: Tensor) -> float:
    """The largest difference between a network and its file, over the largest number of the same map."""
    maps = zip(network(image), exported(image), strict=True)
    return max(((ours - theirs).abs().max() / ours.abs().max()).item() for ours, theirs in maps)
