"""Self-attention of all pixels to all, with relative positions: LESA's binary term (arXiv 2107.05637).

The logit of query i and key j is a sum of two terms, of the content and of the position of j as seen from i:

    q_i . k_j      and      q_i . (r_rows[y_j - y_i] + r_columns[x_j - x_i])

The second one is a sum of what j's row and j's column give. So it is a product of vectors, too: of q_i's products with
all rows and all columns, and of a key that says which row and which column it is in. Any attention kernel takes it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def resized_positions(table: Tensor, side: int) -> Tensor:
    """Vectors of relative positions for a map of another side: linear between those that are there.

    Args:
        table: ``(d, 2 * R - 1)``: from ``-(R - 1)``, where the key is all the way before the query, to ``R - 1``.
        side: Of the map.

    Returns:
        ``(d, 2 * side - 1)``, from border to border like the table; the middle is always the query's own place.
    """
    reach = table.shape[1] // 2
    steps = torch.arange(1 - side, side, dtype=torch.promote_types(table.dtype, torch.float32), device=table.device)
    places = reach + steps * (reach / max(1, side - 1))
    low = places.floor().long().clamp(0, 2 * reach)
    weight = (places - low).to(table.dtype)
    return torch.lerp(table[:, low], table[:, (low + 1).clamp(max=2 * reach)], weight)


def position_logits(query: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """What a query's logits get from each row and from each column.

    Args:
        query: ``(B, heads, d, H, W)``.
        rows: ``(d, 2 * H - 1)``.
        columns: ``(d, 2 * W - 1)``.

    Returns:
        ``(B, heads, H, W, H)`` and ``(B, heads, H, W, W)``: the logit of a key is that of its row plus that of its
        column.
    """
    # windows of the tables, turned around: [.., i, j] is the vector at j - i
    rows, columns = (table.unfold(1, (table.shape[1] + 1) // 2, 1).flip(1) for table in (rows, columns))
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


def with_positions(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys ``(B, heads, H * W, d + H + W)`` whose products are the sums of both terms.

    Args:
        query: ``(B, heads, d, H, W)``.
        key: The same shape.
        rows: ``(B, heads, H, W, H)``.
        columns: ``(B, heads, H, W, W)``.
    """
    height, width = query.shape[3:]
    query = torch.cat((query.permute(0, 1, 3, 4, 2), rows, columns), -1).flatten(2, 3)
    of_row, of_column = (torch.eye(side, dtype=key.dtype, device=key.device) for side in (height, width))
    here = of_row.repeat_interleave(width, 0), of_column.repeat(height, 1)
    places = torch.cat(here, 1).expand(*key.shape[:2], -1, -1)
    return query, torch.cat((key.flatten(3).mT, places), -1)


def global_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(query key^T) value``, without a scale; the values may have another width.

    Args:
        query: ``(B, heads, N, d)``.
        key: The same shape.
        value: ``(B, heads, N, v)``.
    """
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)
