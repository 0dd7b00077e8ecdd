"""Attention of all queries to all keys, for as many heads as there are windows in a large photograph."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .exporting import is_exporting
from .torch_versions import is_compiling

#: CUDA's kernels for ``scaled_dot_product_attention`` take no longer axes of images or heads.
MOST_HEADS = 65535


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """``scaled_dot_product_attention`` of maps ``(B, heads, pixels, head_dim)`` with any number of heads.

    Args:
        mask: Added to the logits, ``(heads, queries, keys)``.
        dropout: Probability of dropping an attention weight. Default: 0.
        scale: Factor of the products of queries and keys; None means ``head_dim ** -0.5``. Default: None.
    """
    tensors = query, key, value, mask
    # Exporters would specialise on the comparison.
    if is_exporting() or is_compiling() or query.shape[1] <= MOST_HEADS:
        return _attention(tensors, dropout, scale)
    parts = zip(*(each.split(MOST_HEADS, dim=-3) for each in tensors), strict=True)
    return torch.cat([_attention(part, dropout, scale) for part in parts], 1)


def _attention(tensors: tuple[Tensor, ...], dropout: float, scale: float | None) -> Tensor:
    query, key, value, mask = tensors
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
