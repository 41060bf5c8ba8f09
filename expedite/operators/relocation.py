"""Clusters that leave their place: from where two are nearly one to tokens that none stands for.

EM moves clusters no further than its neighborhoods reach, so that even ground keeps as many as fine
detail. One step here merges clusters that cost little and gives their places to single tokens; the
number of clusters stays what it was.
"""

import torch
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.geometry.constants import remembered
from expedite.geometry.tiling import take_rows
from expedite.operators.assignment import HardAssignment, half_distances
from expedite.operators.kernels import EMPTY_MASS, LARGEST_DEPTH, fused

# Of the clusters, that may move; more changes little, since what does not pay stays.
SHARE = 0.3
# Errors that differ by no more are equal.
_TIE = 1e-3
_TINY = 1e-30


def relocate(
    assignment: HardAssignment,
    features: Tensor,
    centers: Tensor,
    weight: Tensor,
    clusters: tuple[int, int],
    count: int,
) -> tuple[HardAssignment, Tensor]:
    """Move up to `count` clusters of each image.

    Merged are those whose union with a neighbour adds least to the sum of squared distances (Ward
    1963), among every second cell as on a chessboard, so that none is merged into one that goes
    itself. Their places go to the tokens furthest from the centre of their own cluster, whose
    nearest token stays: the cheapest place to the worst token, and so on as long as a token's
    squared distance is more than the union costs.

    Args:
        assignment: Of every token.
        features: (B, N, D).
        centers: (B, h·w, D).
        weight: (B, N, 1) how much each token counts.
        clusters: (h, w).
        count: At most half of h·w.

    Returns:
        The assignment and the centres after it.

    Example:
        >>> labels = torch.tensor([[0, 1, 1, 2, 2, 2]])
        >>> x, one = torch.tensor([[[0.0], [0], [0], [5], [5], [9]]]), torch.ones(1, 6, 1)
        >>> before = HardAssignment.of(labels, one, 3)
        >>> centers = torch.tensor([[[0.0], [0], [19 / 3]]])
        >>> after, _ = relocate(before, x, centers, one, clusters=(1, 3), count=1)
        >>> after.labels  # the first is merged into the second, and the last token gets its place
        tensor([[1, 1, 1, 2, 2, 0]])
    """
    labels = assignment.labels
    cost, freed, into = _cheapest_unions(centers, assignment.mass, clusters, count)  # (B, count)
    error = (2 * half_distances(features, centers, labels) * weight)[..., 0]  # (B, N)
    error, token = _all_but_nearest(error, labels, centers.shape[1]).topk(count)
    pays = error > cost
    place = torch.arange(centers.shape[1], device=freed.device).expand(freed.shape[0], -1)
    labels = place.scatter(1, freed, torch.where(pays, into, freed)).gather(1, labels)
    labels = labels.scatter(1, token, torch.where(pays, freed, labels.gather(1, token)))
    moved = HardAssignment.of(labels, weight, centers.shape[1])
    return moved, moved.means(features, centers)


def _all_but_nearest(error: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """The errors (B, N), 0 for the token of least error in each cluster, the first of equals.

    Equal is what rounding may tell apart, as it does with the two tokens of a cluster of two.
    """
    if fused(error):
        from expedite.operators.kernels.relocation import all_but_nearest

        return all_but_nearest(error, labels, clusters, _TIE)
    start = error.new_full((error.shape[0], clusters), torch.inf)
    least = start.scatter_reduce(1, labels, error, "amin").gather(1, labels)
    count = error.shape[1]
    place = torch.arange(count, device=error.device).expand_as(labels)
    among = torch.where(error <= least * (1 + _TIE), place, count)
    end = torch.full_like(start, count, dtype=torch.int64)
    return error.masked_fill(
        place == end.scatter_reduce(1, labels, among, "amin").gather(1, labels), 0
    )


def check_relocated(share: float, hard: bool) -> None:
    """Refuse a share of clusters that cannot move."""
    if not 0 <= share <= 0.5:
        raise ExpediteError(
            f"relocated={share} was asked; a share of 0 to 0.5 of the clusters works"
        )
    if share and not hard:
        raise ExpediteError(
            f"relocated={share} was asked with hard=False; single tokens leave no soft shares, so "
            "hard=True works"
        )


def _cheapest_unions(
    centers: Tensor, mass: Tensor, clusters: tuple[int, int], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What the cheapest unions cost, the clusters that go and what they go into, (B, count)."""
    second, beside, there = _chessboard(*clusters, centers.device)
    least, into = _unions(centers, mass, second, beside, there)
    cost, chosen = least.topk(count, largest=False)  # (B, count) of E
    return cost, second[chosen], into.gather(1, chosen)


def _unions(
    centers: Tensor, mass: Tensor, second: Tensor, beside: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """What the cheapest union of each of these cells costs, and which it is with, (B, E)."""
    if fused(centers, mass) and centers.shape[2] <= LARGEST_DEPTH:
        from expedite.operators.kernels.relocation import unions

        return unions(centers, mass, second, beside, there)
    going, staying = take_rows(centers, second)[:, :, None], take_rows(centers, beside)
    gap = (going - staying).square().sum(-1)  # (B, E, 4)
    one, other = mass[:, second, None], mass[:, beside]
    cost = gap * (one * other / (one + other).clamp_min(_TINY))
    # Several could go into one without tokens, each of them at no cost.
    possible = there & ((one <= EMPTY_MASS) | (other > EMPTY_MASS))
    least, side = cost.masked_fill(~possible, torch.inf).min(-1)  # (B, E)
    return least, beside.expand(*side.shape, 4).gather(2, side[..., None])[..., 0]


@remembered
def _chessboard(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Every second cell (E,), the cells beside it (E, 4), and whether they are there."""
    cell = 2 * torch.arange((height * width + 1) // 2, device=device)
    if width % 2 == 0:  # where rows do not alternate of themselves
        cell = cell + cell // width % 2
    side = torch.arange(4, device=device)  # above, left, right, below
    down, right = (side == 3).long() - (side == 0).long(), (side == 2).long() - (side == 1).long()
    rows, columns = cell[:, None] // width + down, cell[:, None] % width + right
    there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    beside = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return cell, beside, there
