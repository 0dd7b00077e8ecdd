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
from ..ops import ceil_div, check_torch
from .fusion import fuse

FORMATS = {'onnx': '.onnx', 'torch-export': '.pt2'}
PARTS = ('backbone', 'features', 'segmentor')


class Exportable(nn.Module):
    """A fused part of a detector or segmentor that takes images without preprocessing.

    Args:
        model: The detector or segmentor; it is not modified.
        part: ``'backbone'``; ``'features'``, backbone and neck; or ``'segmentor'``, a whole segmentor, with logits in
            the size of the image.

    Raises:
        UserError: The model has no such part.
    """

    def __init__(self, model: nn.Module, part: str) -> None:
        super().__init__()
        if part not in PARTS:
            raise UserError(f'part must be one of {PARTS}, got {part!r}')
        if part == 'segmentor' and not hasattr(getattr(model, 'decode_head', None), 'align_corners'):
            raise UserError(
                f'{type(model).__name__} has no single decode head; export its backbone or features instead'
            )
        self.part = part
        preprocessor = model.data_preprocessor  # mmdet and mmseg spell the attribute differently
        self.swap = any(getattr(preprocessor, name, False) for name in ('channel_conversion', '_channel_conversion'))
        for name in ('mean', 'std'):
            self.register_buffer(name, getattr(preprocessor, name, None))
        self.network = deepcopy(model)
        try:
            fuse(self.network)
        except UserError:  # a layer cannot be merged exactly; the network is unchanged
            self.network.eval()
        for module in list(self.network.modules()):
            _replace_pooling(module)
            _rename_keywords(module)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map images ``(B, 3, H, W)``, 0 to 255, in BGR order as the hosts read them, to a list of maps."""
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


def _rename_keywords(module: nn.Module) -> None:
    """Rename children such as the ``in`` of MMCV's ConvModule, which torch's exporter writes into Python code."""
    for name, child in [item for item in module.named_children() if iskeyword(item[0])]:
        delattr(module, name)
        module.add_module(f'{name}_', child)
        if getattr(module, 'norm_name', None) == name:
            module.norm_name = f'{name}_'


class Exported(NamedTuple):
    """Properties of an exported file."""

    smallest: tuple[int, int]  # height and width of the smallest images that it accepts
    opset: int | None  # of ONNX


@torch.no_grad()
def export(network: Exportable, path: str | Path, form: str, size: Sequence[int] = (512, 544)) -> Exported:
    """Write a network to a file that accepts any number of images of any size above a minimum.

    Args:
        network: The network.
        path: The file.
        form: ``'onnx'`` or ``'torch-export'``.
        size: Height and width of the example for tracing. After a small one the file would refuse large
            images, because Swin shifts its windows only on maps larger than a window. Default: ``(512, 544)``.

    Raises:
        UserError: The format is unknown.
        LibraryError: torch is older than 2.6.
    """
    if form not in FORMATS:
        raise UserError(f'form must be one of {tuple(FORMATS)}, got {form!r}')
    check_torch('2.6', 'exporting a network')
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
    """Height and width of the smallest images that a program accepts, found by growing both until all guards hold."""
    (placeholder,) = (node for node in program.graph.nodes if node.name == 'image')
    example, network = placeholder.meta['val'], program.module()
    height, width = (int(program.range_constraints[side.node.expr].lower) for side in example.shape[2:])
    for more in range(512):
        try:
            network(torch.zeros(1, 3, height + more, width + more))
        except AssertionError:  # a guard; all guards run before the network
            continue
        return height + more, width + more
    raise UserError('the exported network accepts only a few image sizes; trace it with a larger example image')


def load(path: str | Path) -> Callable[[Tensor], list[Tensor]]:
    """Load an exported file as a function from images to maps. ONNX files need onnxruntime.

    A ``.pt2`` file can contain code, which ``torch.export.load`` runs: load files from trusted authors only.
    """
    if Path(path).suffix == FORMATS['torch-export']:
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return lambda image: [torch.from_numpy(out) for out in session.run(None, {'image': image.numpy()})]


@torch.no_grad()
def difference(network: Exportable, exported: Callable[[Tensor], list[Tensor]], image: Tensor) -> float:
    """The largest absolute difference between a network and its file, relative to the largest value of the map."""
    maps = zip(network(image), exported(image), strict=True)
    return max(((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12)).item() for ours, theirs in maps)
