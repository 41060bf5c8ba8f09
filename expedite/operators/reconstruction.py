"""Token reconstruction: the full grid back from what the blocks made of the clusters.

Equation 4 of arXiv 2210.01035 (with the minus sign), weights by kriging or locally linear ones in
its place, and the delta form that keeps each token's own detail. Records come from `clustering`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.geometry.tiling import Tiles, make_one_tile, make_tiles
from expedite.operators.assignment import HardAssignment, flat_index, takes_bags
from expedite.operators.choices import Scope, Weighting, check_weights
from expedite.operators.closeness import closeness, half_squares, keys_of, with_one
from expedite.operators.clustering import Clustering, full_precision
from expedite.operators.kriging import TileWeights, kriging_weights
from expedite.operators.spreading import Spread

# Local reconstruction looks at the 7×7 cells around a token's own.
LOCAL_REACH = 3
# Kriging looks at all cells where there are so many to a side, and else at those of a tile and
# around it: as near as EM's, since farther ones say next to nothing beside so many.
_TILE_REACH = 2
_WHOLE_SIDE = 16
# Locally linear weights: the ridge over the mean of the Gram matrix's diagonal.
RIDGE = 0.01
_TINY = 1e-30
_HUGE = 1e30


@dataclass(frozen=True)
class TokenWeights(Spread):
    """How much of each cluster goes into each token; one set serves any number of taps."""

    weights: Tensor  # (B, N, k) float32
    index: Tensor  # (B, N, k) int64 of the clusters they are for

    def apply(self, cluster_values: Tensor) -> Tensor:
        """See `Spread`."""
        clusters, channels = cluster_values.shape[1:]
        values = cluster_values.float().flatten(0, 1)  # (B·h·w, C)
        rows = flat_index(self.index, clusters).flatten(0, 1)  # (B·N, k)
        spread = _weighted_rows(values, rows, self.weights.flatten(0, 1))
        return spread.view(*self.index.shape[:2], channels)


def token_weights(
    clustering: Clustering,
    *,
    reconstruction: Scope = "local",
    weights: Weighting = "kriging",
    k: int | None = None,
) -> TokenWeights | TileWeights:
    """Weigh the clusters near every token.

    Args:
        clustering: From `cluster`.
        reconstruction: "local" looks among the 7×7 cells around a token's own (the neighborhood of
            the clustering where that is larger), or for kriging around a tile of some 4×4 cells
            that the token is in; "knn" among all cells (Eq. 4). Kriging looks at all cells on sides
            of up to 16.
        weights: "kriging": those whose sum of the clusters' changes is the best guess of the
            token's, see `kriging.kriging_weights`. The others take the k nearest clusters:
            "linear": weights that sum to one and best rebuild the token itself, as in locally
            linear embedding; "softmax": softmax(-d²/τ), Eq. 4; "l2": exp(-d²/τ) over its Euclidean
            norm, as published code has it (the sum exceeds one); "hard": the nearest cluster alone,
            as the published DPT code has it.
        k: Neighbours, 8 if None. Clusters without mass are none, and at a border there may be
            fewer. Kriging takes all and no k.

    Raises:
        ExpediteError: There are fewer than `k` clusters, a name is unknown, or `k` is given for
            kriging.
    """
    k = check_weights(weights, k)
    _check_scope(reconstruction)
    with full_precision(clustering.features.device):
        tiles = _search_tiles(clustering, reconstruction, weights)
        if k is None:
            return kriging_weights(clustering, tiles)
        check_count(k, clustering.clusters)
        found = _nearest_clusters(clustering, tiles, k)
        chosen = _WEIGHTINGS[weights](found)  # (B, T, n, k)
        spread = TokenWeights(tiles.join(chosen), tiles.join(tiles.cells_at(found.place)))
        return _with_single_tokens(spread, clustering)


def reconstruct(
    cluster_tokens: Tensor,
    clustering: Clustering,
    *,
    reconstruction: Scope = "local",
    weights: Weighting = "kriging",
    k: int | None = None,
    delta: bool = True,
) -> Tensor:
    """Bring back the full grid from cluster tokens.

    Args:
        cluster_tokens: (B, h·w, C) what the blocks made of the centroids.
        clustering: The record that `cluster` returned with those centroids.
        reconstruction: See `token_weights`, as for `weights` and `k`.
        weights: See `token_weights`.
        k: See `token_weights`.
        delta: Add the weighted changes of the clusters to the tokens as they were; False replaces
            the tokens by the weighted clusters (Eq. 4). Values of another width than the clustered
            tokens, such as class scores, have no "before" and need False.

    Returns:
        (B, N, C) in the dtype of the cluster tokens.

    Raises:
        ExpediteError: Shapes do not fit, there are fewer than `k` clusters, or a name is unknown.

    Example:
        >>> from expedite.operators.clustering import cluster
        >>> tokens = torch.randn(2, 12 * 16, 8)
        >>> centroids, record = cluster(tokens, (12, 16), (5, 6))
        >>> torch.equal(reconstruct(centroids, record), tokens)
        True
    """
    layer = TokenReconstruction(reconstruction, weights, k, delta)
    restored: Tensor = layer(cluster_tokens, clustering)
    return restored


class TokenWeighting(nn.Module):
    """`token_weights` with its settings fixed; it has no parameters."""

    def __init__(self, reconstruction: Scope, weights: Weighting, k: int | None) -> None:
        super().__init__()
        _check_scope(reconstruction)
        self.reconstruction: Scope = reconstruction
        self.weights: Weighting = weights
        self.k = check_weights(weights, k)

    def forward(self, clustering: Clustering) -> TokenWeights | TileWeights:
        return token_weights(
            clustering, reconstruction=self.reconstruction, weights=self.weights, k=self.k
        )


class TokenReconstruction(nn.Module):
    """`reconstruct` with its settings fixed; it has no parameters.

    Weights made before with `weigh` can be given again, so that every tap of one forward pass is
    reconstructed with the same set.

    Example:
        >>> from expedite.operators.clustering import TokenClustering
        >>> centroids, record = TokenClustering((5, 6))(torch.randn(2, 192, 8), (12, 16))
        >>> TokenReconstruction(weights="softmax")(2 * centroids, record).shape
        torch.Size([2, 192, 8])
    """

    def __init__(
        self,
        reconstruction: Scope = "local",
        weights: Weighting = "kriging",
        k: int | None = None,
        delta: bool = True,
    ) -> None:
        super().__init__()
        self.weigh: nn.Module = TokenWeighting(reconstruction, weights, k)
        self.delta = delta

    def forward(
        self,
        cluster_tokens: Tensor,
        clustering: Clustering,
        token_weights: Spread | None = None,
    ) -> Tensor:
        _check_values(cluster_tokens, clustering, self.delta)
        if clustering.is_identity:
            return cluster_tokens
        spread: Spread = token_weights or self.weigh(clustering)
        if not self.delta:
            return spread.apply(cluster_tokens).to(cluster_tokens.dtype)
        return spread.add_changes(cluster_tokens, clustering.centroids, clustering.tokens)


def _with_single_tokens(spread: TokenWeights, clustering: Clustering) -> TokenWeights:
    """Let a token that is a cluster of its own be that cluster, wherever its place is."""
    if not isinstance(clustering.assignment, HardAssignment):
        return spread
    alone = clustering.assignment.share > 1 - 1e-6  # (B, N, 1)
    itself = torch.arange(spread.weights.shape[2], device=alone.device) == 0
    return TokenWeights(
        torch.where(alone, itself.float(), spread.weights),
        torch.where(alone, clustering.assignment.labels[..., None], spread.index),
    )


def _weighted_rows(values: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Sums (n, C) of rows (n, k) of values (m, C) times weights (n, k)."""
    if takes_bags(values):
        return F.embedding_bag(rows, values, mode="sum", per_sample_weights=weights)
    # Never all k rows of every token at once.
    total = values[rows[:, 0]] * weights[:, :1]
    for index, weight in zip(rows.T[1:], weights.T[1:, :, None], strict=True):
        total = torch.addcmul(total, values[index], weight)
    return total


class _Neighbours(NamedTuple):
    """The k nearest clusters of every token in tiles, nearest first."""

    squared: Tensor  # (B, T, n, k) squared distances, inf where there are fewer
    place: Tensor  # (B, T, n, k) in the window of the tile
    centers: Tensor  # (B, h·w, D) of all clusters
    tiles: Tiles
    temperature: Tensor  # (B, 1, 1, 1)


def _nearest_clusters(clustering: Clustering, tiles: Tiles, k: int) -> _Neighbours:
    z, centers = clustering.features, clustering.centers
    there = clustering.there[..., None]
    keys = keys_of(centers, half_squares(centers).where(there, torch.inf))
    near = closeness(tiles.split(with_one(z)), keys, tiles)  # (B, T, n, m)
    near, place = near.topk(min(k, near.shape[3]))
    squared = (2 * (tiles.split(half_squares(z)) - near)).clamp_min(0)
    return _Neighbours(squared, place, centers, tiles, clustering.temperature[..., None])


def _softmax_weights(found: _Neighbours) -> Tensor:
    return (-found.squared / found.temperature).softmax(-1)


def _l2_weights(found: _Neighbours) -> Tensor:
    # A common factor leaves the direction alone and keeps far tokens from underflowing to zero.
    beyond = found.squared - found.squared[..., :1]
    return F.normalize(torch.exp(-beyond / found.temperature), dim=-1)


def _hard_weights(found: _Neighbours) -> Tensor:
    first, others = found.squared[..., :1], found.squared[..., 1:]
    return torch.cat([torch.ones_like(first), torch.zeros_like(others)], -1)


def _linear_weights(found: _Neighbours) -> Tensor:
    """Minimise ‖z - Σ w_j s_j‖² over weights that sum to one (Roweis and Saul 2000).

    The Gram matrix of the differences z - s_j comes from distances alone:
    G_ij = ½(d_i² + d_j² - ‖s_i - s_j‖²).
    """
    # k first: every step then runs over long contiguous rows, one column for each token.
    squared = found.squared.flatten(0, 2).mT.contiguous()  # (k, B·T·n)
    there = squared.isfinite()
    squared = squared.where(there, 0)
    half, near = _among(found)
    # ‖s_i - s_j‖² is 2 (‖s_i‖²/2 - near_ij).
    gram = torch.add((squared - 2 * half)[:, None] + squared, near, alpha=2)  # (k, k, B·T·n)
    scale = squared.sum(0) / there.sum(0)  # the mean of half the diagonal
    # On even ground distances are rounding, which grows with the length of what they are between.
    rounding = torch.finfo(gram.dtype).eps * half.abs().where(there, 0).amax(0)
    # A pivot so large leaves nothing to neighbours that are not there.
    ridge = torch.where(there, (2 * RIDGE * scale + 4 * rounding).clamp_min(_TINY), _HUGE)
    solution = solve_positive(gram, ridge, there.to(gram.dtype)).where(there, 0)
    return (solution / solution.sum(0)).mT.reshape(found.place.shape)


def _among(found: _Neighbours) -> tuple[Tensor, Tensor]:
    """Of the centres s that each token found: ‖s‖²/2 (k, B·T·n) and closeness (k, k, B·T·n)."""
    centers, windows, place = found.centers, found.tiles.windows, found.place
    half = half_squares(centers)
    points, keys = windows(with_one(centers)), windows(keys_of(centers, half))
    near = points @ keys.mT  # (B, T, m, m)
    batch, count, cells = near.shape[:3]
    first = torch.arange(batch * count, device=place.device)[:, None, None] * cells
    rows = (place.flatten(0, 1) + first).flatten(0, 1).mT  # (k, B·T·n) of B·T·m
    columns = place.flatten(0, 2).mT
    picked = (rows[:, None] * cells + columns).flatten()
    # `index_select` takes a third of the time of indexing on a CPU.
    norms = windows(half).flatten().index_select(0, rows.flatten()).view(rows.shape)
    return norms, near.flatten().index_select(0, picked).view(len(rows), *rows.shape)


_WEIGHTINGS: dict[str, Callable[[_Neighbours], Tensor]] = {
    "linear": _linear_weights,
    "softmax": _softmax_weights,
    "l2": _l2_weights,
    "hard": _hard_weights,
}


def solve_positive(matrix: Tensor, diagonal: Tensor, rhs: Tensor) -> Tensor:
    """Solve small symmetric positive definite systems (k, k, n) · x = (k, n), one a column.

    Elimination unrolled over k, which torch.compile and ONNX take (they do not take
    `torch.linalg.solve`); a positive definite matrix needs no pivoting.

    Args:
        matrix: (k, k, n).
        diagonal: (k, n) added to its diagonal.
        rhs: (k, n).

    Example:
        >>> matrix, diagonal = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.ones(2, 1)
        >>> solve_positive(matrix[..., None], diagonal, torch.ones(2, 1)).flatten()
        tensor([0.5000, 0.2500])
    """
    pivots, rows, sides = [], [], []
    for added in diagonal:
        pivot, row, side = matrix[0, 0] + added, matrix[0, 1:], rhs[0]
        factor = matrix[1:, 0] / pivot
        pivots.append(pivot)
        rows.append(row)
        sides.append(side)
        matrix = torch.addcmul(matrix[1:, 1:], factor[:, None], row, value=-1)
        rhs = torch.addcmul(rhs[1:], factor, side, value=-1)
    solution = rhs  # empty: nothing is left after the last row
    for pivot, row, side in zip(reversed(pivots), reversed(rows), reversed(sides), strict=True):
        first = (side - (row * solution).sum(0)) / pivot
        solution = torch.cat([first[None], solution])
    return solution


def _search_tiles(clustering: Clustering, reconstruction: Scope, weights: Weighting) -> Tiles:
    device = clustering.features.device
    if reconstruction == "knn":
        return make_one_tile(clustering.grid, clustering.clusters, device)
    least, uncut = (_TILE_REACH, _WHOLE_SIDE) if weights == "kriging" else (LOCAL_REACH, 0)
    # A smaller reach than the clustering's could miss every cluster that a token belongs to.
    reach = max(least, clustering.neighborhood // 2)
    return make_tiles(
        clustering.grid, clustering.clusters, reach, device, nearest=clustering.nearest, uncut=uncut
    )


def _check_scope(reconstruction: str) -> None:
    if reconstruction not in ("local", "knn"):
        raise ExpediteError(
            f"the reconstruction {reconstruction!r} was asked; 'local' and 'knn' are known"
        )


def check_count(k: int | None, clusters: tuple[int, int]) -> None:
    """Refuse more nearest clusters than there are; None asks for no number."""
    if k is not None and k > clusters[0] * clusters[1]:
        raise ExpediteError(
            f"k={k} nearest clusters were asked of {clusters[0]}×{clusters[1]}; "
            f"k can be at most {clusters[0] * clusters[1]}"
        )


def _check_values(cluster_tokens: Tensor, clustering: Clustering, delta: bool) -> None:
    expected = clustering.centroids.shape
    if cluster_tokens.shape[:2] != expected[:2] or (delta and cluster_tokens.shape != expected):
        raise ExpediteError(
            f"cluster tokens of shape {tuple(cluster_tokens.shape)} were given for clusters of "
            f"shape {tuple(expected)}; their number must agree, and for the delta form their width"
        )
