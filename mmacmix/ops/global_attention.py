"""Self-attention among all pixels with relative positions: LESA's binary term (arXiv 2107.05637).

The logit of query i and key j is the sum of a content and a position term:

    q_i . k_j      and      q_i . (r_rows[y_j - y_i] + r_columns[x_j - x_i])

The position term is the sum of a logit for the key's row and one for its column: H + W numbers per query instead of
H W. Queries are processed a few rows at a time, and their logits recomputed in backward, except during export.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .exporting import is_exporting

_LOGITS = 1 << 22  # at a time: 16 MiB in float32


def relative_positions(table: Tensor, side: int) -> Tensor:
    """Vectors of the position of each key relative to each query along one axis: ``(d, side, side)``, queries first.

    Args:
        table: ``(d, 2 * R - 1)``, for an axis of R pixels: relative positions from ``1 - R`` to ``R - 1``. Vectors
            for axes of other lengths are interpolated linearly.
        side: Length of the axis in pixels.
    """
    centre = table.shape[1] // 2
    pixels = torch.arange(side, device=table.device)
    precise = torch.promote_types(table.dtype, torch.float32)
    # Tensor arithmetic, because side may be symbolic during export.
    relative_position = centre + (pixels - pixels[:, None]) * (centre / pixels[-1:].clamp(min=1).to(precise))
    low = relative_position.floor().long().clamp(0, 2 * centre)
    high = (low + 1).clamp(max=2 * centre)
    return torch.lerp(table[:, low], table[:, high], (relative_position - low).to(table.dtype))


def position_logits(query: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Position term of the logits, for the rows and for the columns of keys.

    Args:
        query: ``(B, heads, d, H, W)``.
        rows: ``(d, H, H)``, see ``relative_positions``.
        columns: ``(d, W, W)``.

    Returns:
        ``(B, heads, H, W, H)`` and ``(B, heads, H, W, W)``; the position term of a key is the sum of the entry of its
        row and that of its column.
    """
    return torch.einsum('bndyx,dyj->bnyxj', query, rows), torch.einsum('bndyx,dxj->bnyxj', query, columns)


def content_statistics(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per head over all products ``q_i . k_j`` of each image, without computing the products.

    The mean square of the products is ``<Q^T Q, K^T K>`` over the squared number of pixels, from matrices ``d x d``.

    Args:
        query: ``(B, heads, d, H, W)``.
        key: The same shape.
    """
    query, key = query.flatten(3), key.flatten(3)
    pixels = query.shape[-1]
    squares = (query @ query.transpose(-1, -2) / pixels * (key @ key.transpose(-1, -2) / pixels)).sum((2, 3)).mean(0)
    mean = (query.mean(3) * key.mean(3)).sum(2).mean(0)
    return mean, (squares - mean.square()).clamp(min=0)


def position_statistics(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per head over the position terms of all pairs, without computing the terms.

    Args:
        rows: ``(B, heads, H, W, H)``.
        columns: ``(B, heads, H, W, W)``.
    """
    of_queries = rows.mean(-1) + columns.mean(-1)
    within = rows.var(-1, correction=0) + columns.var(-1, correction=0)
    mean = of_queries.mean((0, 2, 3))
    return mean, within.mean((0, 2, 3)) + (of_queries - mean.view(-1, 1, 1)).square().mean((0, 2, 3))


def attention_logits(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Logits of ``h * w`` queries and all keys, the sum of both terms: ``(B, heads, h * w, H * W)``.

    Args:
        query: ``(B, heads, d, h, w)``.
        key: ``(B, heads, d, H, W)``.
        rows: ``(B, heads, h, w, H)``, the position term of the rows of keys.
        columns: ``(B, heads, h, w, W)``, the position term of the columns of keys.
    """
    of_position = (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)
    return (query.flatten(3).transpose(-1, -2) @ key.flatten(3)).add_(of_position)


def relative_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``softmax(logits) value``, without scaling: ``(B, heads, v, H, W)``.

    Half precision is computed in float32, except for matrix products under autocast.

    Args:
        query: ``(B, heads, d, H, W)``.
        key: The same shape.
        value: ``(B, heads, v, H, W)``.
        rows: ``(B, heads, H, W, H)``, see ``position_logits``.
        columns: ``(B, heads, H, W, W)``.
    """
    height, width = key.shape[3:]
    whole = is_exporting() or not query.numel()
    step = height if whole else max(1, _LOGITS // (query.shape[:2].numel() * height * width * width))
    if step >= height:
        return _attend(query, key, value, rows, columns)
    chunks = zip(query.split(step, 3), rows.split(step, 2), columns.split(step, 2), strict=True)
    outs = [
        checkpoint(_attend, query, key, value, rows, columns, use_reentrant=False, preserve_rng_state=False)
        for query, rows, columns in chunks
    ]
    return torch.cat(outs, 3)


def _attend(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    dtype, precise = query.dtype, torch.promote_types(query.dtype, torch.float32)
    query, key, value, rows, columns = (each.to(precise) for each in (query, key, value, rows, columns))
    weights = attention_logits(query, key, rows, columns).softmax(-1)
    return (value.flatten(3) @ weights.transpose(-1, -2)).unflatten(3, query.shape[3:]).to(dtype)
