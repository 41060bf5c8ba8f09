"""Relative position biases of clusters: a table over offsets between tokens, read between them.

Clusters are taken to stand at the centres of regular cells, which all images share: places of their
own would cost a bias for each image. Centres of centres are again regular, so that a chain of
clusterings is read like one.
"""

import torch
from torch import Tensor

from expedite.geometry.constants import remembered
from expedite.geometry.offsets import offset_index, offset_index_with_class

# Rows behind a table's offsets: from the class token, to it, and from it to itself.
_CLASS_ROWS = 3


def cluster_bias(
    table: Tensor, grid: tuple[int, int], clusters: tuple[int, int], resized: bool = False
) -> Tensor:
    """What is added to attention scores among the class token and the clusters.

    Args:
        table: ((2H-1)·(2W-1) + 3, heads), the offset of the query from the key in row-major order
            from (1-H, 1-W) on, then the rows of the class token.
        grid: (H, W).
        clusters: (h, w).
        resized: Resize the table, in place of reading it at the offsets between clusters.

    Returns:
        (1, heads, 1 + h·w, 1 + h·w).

    Example:
        >>> cluster_bias(torch.randn(15 * 23 + 3, 4), (8, 12), (4, 5)).shape
        torch.Size([1, 4, 21, 21])
    """
    (index,) = _index_with_class(*clusters, table.device)
    return resample(table, grid, clusters, resized).mT[:, index][None]


def window_bias(
    table: Tensor, window: tuple[int, int], cells: tuple[int, int], resized: bool = False
) -> Tensor:
    """What is added to attention scores among the clusters of a window.

    Args:
        table: ((2H-1)·(2W-1), heads), as for `cluster_bias`, without a class token.
        window: (H, W) of the tokens.
        cells: (h, w) of the clusters.
        resized: See `cluster_bias`.

    Returns:
        (heads, h·w, h·w).

    Example:
        >>> window_bias(torch.randn(13 * 13, 4), (7, 7), (5, 5)).shape
        torch.Size([4, 25, 25])
    """
    return spread(_resample_offsets(table, window, cells, resized), cells)


def spread(table: Tensor, cells: tuple[int, int]) -> Tensor:
    """The bias (heads, h·w, h·w) of a table ((2h-1)·(2w-1), heads) over the offsets of h×w cells.

    Example:
        >>> spread(torch.arange(5.0)[:, None], (1, 3))[0].tolist()
        [[2.0, 1.0, 0.0], [3.0, 2.0, 1.0], [4.0, 3.0, 2.0]]
    """
    (index,) = _index(*cells, table.device)
    return table.mT[:, index]


def resample(
    table: Tensor, grid: tuple[int, int], clusters: tuple[int, int], resized: bool = False
) -> Tensor:
    """The table over offsets between clusters, ((2h-1)·(2w-1) + 3, heads), bilinear in the tokens'.

    Example:
        >>> table = torch.randn(15 * 23 + 3, 4)
        >>> torch.equal(resample(table, (8, 12), (8, 12)), table)
        True
    """
    offsets = _resample_offsets(table[:-_CLASS_ROWS], grid, clusters, resized)
    return torch.cat([offsets, table[-_CLASS_ROWS:]])


def _resample_offsets(
    table: Tensor, grid: tuple[int, int], clusters: tuple[int, int], resized: bool
) -> Tensor:
    rows, columns = (2 * side - 1 for side in grid)
    offsets = table.float().reshape(rows, columns, -1)
    between = _resized if resized else _offsets
    below, above, share = between(grid[0], clusters[0], table.device)
    share = share[:, None, None]
    offsets = offsets[below] * (1 - share) + offsets[above] * share  # (2h-1, 2W-1, heads)
    below, above, share = between(grid[1], clusters[1], table.device)
    share = share[:, None]
    offsets = offsets[:, below] * (1 - share) + offsets[:, above] * share  # (2h-1, 2w-1, heads)
    return offsets.flatten(0, 1).to(table.dtype)


@remembered
def _offsets(side: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where the 2·cells-1 offsets between centres lie among the 2·side-1 between tokens.

    Row i of h stands at (i+½)·H/h-½, so that offsets are multiples of H/h. In whole numbers, since
    an offset that a token has is to get that token's bias to the bit.
    """
    steps = torch.arange(1 - cells, cells, device=device) * side  # in 1/cells of a token
    below = steps // cells
    share = (steps - below * cells) / cells  # (2·cells-1,) how far it is on the way to the next
    first = below + side - 1
    # The last offset has no next one, and needs none: it is there only where cells are tokens.
    return first, (first + 1).clamp_max(2 * side - 2), share


@remembered
def _resized(side: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """As `_offsets`, where a bilinear resize of the table, edges and all, takes its entries."""
    length, count = 2 * side - 1, 2 * cells - 1
    place = ((torch.arange(count, device=device) + 0.5) * (length / count) - 0.5).clamp_min(0)
    below = place.long()
    return below, (below + 1).clamp_max(length - 1), place - below


@remembered
def _index_with_class(height: int, width: int, device: torch.device) -> tuple[Tensor]:
    return (offset_index_with_class(height, width, device),)


@remembered
def _index(height: int, width: int, device: torch.device) -> tuple[Tensor]:
    return (offset_index(height, width, device),)
