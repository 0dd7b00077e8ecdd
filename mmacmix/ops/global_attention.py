"""Self-attention of all pixels to all, with relative positions: LESA's binary term (arXiv 2107.05637).

The logit of query i and key j is a sum of two terms, of the content and of the position of j as seen from i:

    q_i . k_j      and      q_i . (r_rows[y_j - y_i] + r_columns[x_j - x_i])

The second one is a sum of what j's row and j's column give, which take H + W numbers a query instead of H W. And all
logits never exist together: queries are worked through by some rows of the map at a time, in backward once more.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .backends.exportable import is_exporting

_LOGITS = 1 << 22  # at a time: 16 MiB in float32


def relative_positions(table: Tensor, side: int) -> Tensor:
    """A vector for every key ``j`` that a query ``i`` sees along one side of the map: ``(d, side, side)``, i first.

    Args:
        table: ``(d, 2 * R - 1)``, for a side of R pixels: from the key all the way before the query, over the query's
            own place in the middle, to all the way behind. Vectors for another side are interpolated linearly.
        side: Pixels.
    """
    reach = table.shape[1] // 2
    at = torch.arange(side, device=table.device)
    # In tensors, so that an exporter leaves the side open.
    precise = torch.promote_types(table.dtype, torch.float32)
    places = reach + (at - at[:, None]) * (reach / at[-1:].clamp(min=1).to(precise))
    low = places.floor().long().clamp(0, 2 * reach)
    return torch.lerp(table[:, low], table[:, (low + 1).clamp(max=2 * reach)], (places - low).to(table.dtype))


def position_logits(query: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """What a query's logits get from each row and from each column.

    Args:
        query: ``(B, heads, d, H, W)``.
        rows: ``(d, H, H)``, see ``relative_positions``.
        columns: ``(d, W, W)``.

    Returns:
        ``(B, heads, H, W, H)`` and ``(B, heads, H, W, W)``: the logit of a key is that of its row plus that of its
        column.
    """
    return torch.einsum('bndyx,dyj->bnyxj', query, rows), torch.einsum('bndyx,dxj->bnyxj', query, columns)


def content_statistics(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance a head of all products ``q_i . k_j`` of the images, none of which is written down.

    The mean square of products is the product of the mean squares: ``<Q^T Q, K^T K>``, matrices of ``d x d``.

    Args:
        query: ``(B, heads, d, H, W)``.
        key: The same shape.
    """
    query, key = query.flatten(3), key.flatten(3)
    pixels = query.shape[-1]
    squares = (query @ query.mT / pixels * (key @ key.mT / pixels)).sum((2, 3)).mean(0)
    mean = (query.mean(3) * key.mean(3)).sum(2).mean(0)
    return mean, (squares - mean.square()).clamp(min=0)


def position_statistics(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance a head of all sums of a row's and a column's logit, none of which is written down.

    Args:
        rows: ``(B, heads, H, W, H)``.
        columns: ``(B, heads, H, W, W)``.
    """
    of_queries = rows.mean(-1) + columns.mean(-1)
    within = rows.var(-1, correction=0) + columns.var(-1, correction=0)
    mean = of_queries.mean((0, 2, 3))
    return mean, within.mean((0, 2, 3)) + (of_queries - mean.view(-1, 1, 1)).square().mean((0, 2, 3))


def attention_logits(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Both terms of some queries with all keys: ``(B, heads, h * w, H * W)``.

    Args:
        query: ``(B, heads, d, h, w)``.
        key: ``(B, heads, d, H, W)``.
        rows: Logits of the keys' rows: ``(B, heads, h, w, H)``.
        columns: Logits of the keys' columns: ``(B, heads, h, w, W)``.
    """
    of_position = (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)
    return (query.flatten(3).mT @ key.flatten(3)).add_(of_position)


def relative_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``softmax(logits) value``, without a scale: ``(B, heads, v, H, W)``. Half precision is computed in
    float32, but under autocast.

    Args:
        query: ``(B, heads, d, H, W)``.
        key: The same shape.
        value: ``(B, heads, v, H, W)``.
        rows: ``(B, heads, H, W, H)``.
        columns: ``(B, heads, H, W, W)``.
    """
    height, width = key.shape[3:]
    whole = is_exporting() or not query.numel()
    step = height if whole else max(1, _LOGITS // (query.shape[:2].numel() * height * width * width))
    if step >= height:
        return _attend(query, key, value, rows, columns)
    some = zip(query.split(step, 3), rows.split(step, 2), columns.split(step, 2), strict=True)
    outs = [
        checkpoint(_attend, query, key, value, rows, columns, use_reentrant=False, preserve_rng_state=False)
        for query, rows, columns in some
    ]
    return torch.cat(outs, 3)


def _attend(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    dtype, precise = query.dtype, torch.promote_types(query.dtype, torch.float32)
    query, key, value, rows, columns = (each.to(precise) for each in (query, key, value, rows, columns))
    weights = attention_logits(query, key, rows, columns).softmax(-1)
    return (value.flatten(3) @ weights.mT).unflatten(3, query.shape[3:]).to(dtype)
