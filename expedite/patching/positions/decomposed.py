"""Decomposed relative positions of clusters, and where clusters lie inside windows.

A table per side holds a vector for every distance in tokens; what it adds to an attention score is
its product with the query. Clusters stand at the regular centres of their cells, the same for all
images, so the two sides stay apart.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from expedite.geometry.constants import remembered


@remembered
def places(
    side: int, window: int, clusters: int, cells: int, borders: bool, device: torch.device
) -> tuple[Tensor, ...]:
    """Where the cells of every window lie along one side.

    Args:
        side: Tokens.
        window: Tokens of a window.
        clusters: Cells that stand for all tokens.
        cells: Cells of a window. In the last window, which the border may cut short, those that
            stand for no token stand for the padding.
        borders: Whether the cells of a window stand for its tokens; else every cell of the map
            stands for as many.
        device: Where to put the result.

    Returns:
        The middle of each cell in tokens from the first of its window, (windows, cells); whether it
        stands for tokens, (windows, cells) bool; how many tokens each window has, (windows, 1).

    Example:
        >>> middle, there, tokens = places(6, 4, 3, 2, True, torch.device("cpu"))
        >>> middle.tolist(), there.tolist(), tokens.tolist()
        ([[0.5, 2.5], [0.5, 2.5]], [[True, True], [True, False]], [[4], [2]])
    """
    index = torch.arange(-(-side // window), device=device)[:, None]
    count = (clusters - index * cells).clamp(max=cells)
    tokens = (side - index * window).clamp(max=window) if borders else count * side / clusters
    cell = torch.arange(cells, device=device)
    inside = (cell + 0.5) * tokens / count
    missing = (cells - count).clamp(min=1)
    behind = tokens + (cell - count + 0.5) * (window - tokens) / missing
    there = cell < count
    return torch.where(there, inside, behind) - 0.5, there, tokens


@remembered
def middles(
    side: int, window: int, clusters: int, cells: int, borders: bool, device: torch.device
) -> tuple[Tensor]:
    """The middle of each cell in tokens from the first of the map, (1, clusters)."""
    middle, _, tokens = places(side, window, clusters, cells, borders, device)
    start = tokens.cumsum(0) - tokens
    return ((start + middle).flatten()[None, :clusters],)


def positions(queries: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """What relative positions add to the scores of queries.

    Args:
        queries: (B·n·m, heads, h·w, d) of n×m windows of h×w cells.
        rows: (n, h, h, d) from `between`: the vectors of every two rows of the windows.
        columns: (m, w, w, d).

    Returns:
        (B·n·m, heads, h·w, h·w).
    """
    (n, h), (m, w) = rows.shape[:2], columns.shape[:2]
    _, heads, count, depth = queries.shape
    q = queries.reshape(-1, n, m, heads, h, w, depth)
    down = torch.einsum("bnmahwd,nhkd->bnmahwk", q, rows)
    across = torch.einsum("bnmahwd,mwkd->bnmahwk", q, columns)
    return (down[..., None] + across[..., None, :]).reshape(-1, heads, count, count)


def between(table: Tensor, middle: Tensor, side: int) -> Tensor:
    """Vectors of the distances between cells, between those of whole distances in the table.

    Args:
        table: (distances, d), for another side than this where the model resizes it.
        middle: (n, k) in tokens, see `places`.
        side: Tokens; the table is for distances from 1 - side to side - 1.

    Returns:
        (n, k, k, d), from each query to each key.
    """
    count = 2 * side - 1
    if len(table) != count:  # as the model itself does on a map of another size
        table = F.interpolate(table.mT[None], size=count, mode="linear")[0].mT
    distance = middle[:, :, None] - middle[:, None] + (side - 1)  # (n, k, k)
    lower = distance.floor().clamp(0, count - 1)
    share = (distance - lower)[..., None].to(table.dtype)
    below = lower.long()
    first, second = table[below], table[(below + 1).clamp(max=count - 1)]
    return first + share * (second - first)
