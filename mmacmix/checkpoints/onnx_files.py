"""Convolutions of ONNX files, which are read as data: nothing in them runs."""

from pathlib import Path
from typing import Any

import torch

from ..errors import LibraryError


def read_onnx(path: str | Path) -> dict[str, Any]:
    """Read a file as a checkpoint whose ``state_dict`` has ``{output}.weight`` and ``{output}.bias`` of convolutions.

    ``output`` is the convolution's output in the graph.

    Args:
        path: The file.

    Raises:
        LibraryError: The package onnx is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise LibraryError('ONNX files need the package of this name: pip install onnx') from error
    graph = onnx.load(str(path)).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    state_dict = {
        f'{node.output[0]}.{leaf}': torch.from_numpy(numpy_helper.to_array(tensors[name]).copy())
        for node in graph.node
        if node.op_type == 'Conv'
        for leaf, name in zip(('weight', 'bias'), node.input[1:], strict=False)
        if name in tensors
    }
    return dict(state_dict=state_dict, meta={})
