"""Networks as files that run without this package: ONNX, and torch's own format."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..ops import check_torch, constants_recorded_once
from .exportable import PARTS, Exportable, detectors

__all__ = ['FORMATS', 'PARTS', 'Exportable', 'Exported', 'difference', 'export', 'load']

FORMATS = {'onnx': '.onnx', 'torch-export': '.pt2'}
METADATA = 'mmacmix'  #: The key of the metadata in ONNX files.
# After a small example, the file would refuse large images, because Swin shifts its windows only on maps larger than a
# window.
_EXAMPLE = 512, 544
_FOLDED_BYTES = 1 << 24  # larger constants are computed when the network runs, so that files stay small


class Exported(NamedTuple):
    """Properties of an exported file."""

    smallest: tuple[int, int]  # height and width of the smallest images that it accepts, or of the only ones
    opset: int | None  # of ONNX


@torch.no_grad()
def export(
    network: nn.Module,
    path: str | Path,
    form: str,
    size: Sequence[int] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Exported:
    """Write a network to a file.

    Args:
        network: An ``Exportable``, or another network that takes images ``(B, 3, H, W)`` and returns maps.
        path: The file.
        form: ``'onnx'`` or ``'torch-export'``, which has no whole detectors.
        size: Height and width of the images that the file accepts, one at a time. None means any size above a minimum,
            and any number of images unless the network is a detector; the file then computes on every run what else
            is a constant in it. Default: None.
        metadata: What the file tells its users, as JSON in ONNX's metadata under the key ``'mmacmix'``, or None.
            Default: None.

    Raises:
        UserError: The format is unknown, or does not fit the network.
        LibraryError: torch is older than 2.6.
    """
    if form not in FORMATS:
        raise UserError(f'form must be one of {tuple(FORMATS)}, got {form!r}')
    part = getattr(network, 'part', 'backbone')
    if form == 'torch-export' and part == 'detector':
        raise UserError(f'whole detectors can be exported to onnx only, not to {form}')
    check_torch('2.6', 'exporting a network')
    images = 2 if size is None and part != 'detector' else 1
    free = torch.export.Dim.DYNAMIC
    dims = None if size is not None else [{0: free, 2: free, 3: free} if images > 1 else {2: free, 3: free}]
    image = torch.rand(images, 3, *(size or _EXAMPLE)) * 255
    with constants_recorded_once():
        network.eval()  # returns None in the hosts' networks
        program = torch.export.export(network, (image,), dynamic_shapes=dims)
    smallest = _smallest(program) if size is None else tuple(size)
    if form == 'torch-export':
        torch.export.save(program, path)
        return Exported(smallest, None)
    return Exported(smallest, _write_onnx(program, part, path, metadata))


def _write_onnx(
    program: torch.export.ExportedProgram, part: str, path: str | Path, metadata: dict[str, Any] | None
) -> int:
    """Write an ONNX file; returns its opset."""
    from onnxscript.optimizer import optimize_ir

    outputs, translations = len(program.graph_signature.user_outputs), {}
    names = ['logits'] if part == 'segmentor' else [f'level{level}' for level in range(outputs)]
    if part == 'detector':
        from .operators import onnx_translations

        names, translations = ['boxes', 'scores', 'labels', 'masks'][:outputs], onnx_translations()
    exported = torch.onnx.export(
        program, (), input_names=['image'], output_names=names, custom_translation_table=translations, verbose=False,
        optimize=False,
    )  # fmt: skip
    optimize_ir(exported.model, input_size_limit=_FOLDED_BYTES, output_size_limit=_FOLDED_BYTES)
    if metadata is not None:
        exported.model.metadata_props[METADATA] = json.dumps(metadata)
    exported.save(path)
    return exported.model.opset_imports['']


def _smallest(program: torch.export.ExportedProgram) -> tuple[int, int]:
    """Height and width of the smallest images that a program accepts, found by growing both until all guards hold."""
    (image,) = program.graph_signature.user_inputs
    (placeholder,) = (node for node in program.graph.nodes if node.name == image)
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
    """The largest difference between a network and its file.

    Maps differ by the largest absolute difference relative to the largest value of the map, detections by their scores,
    see ``mmacmix.deploy.detectors.difference``.
    """
    ours, theirs = network(image), exported(image)
    if network.part == 'detector':
        return detectors().difference(ours, theirs)
    maps = zip(ours, theirs, strict=True)
    return max(((a - b).abs().max() / a.abs().max().clamp(min=1e-12)).item() for a, b in maps)
