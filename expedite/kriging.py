"""Weights of clusters by ordinary kriging: Gaussian process regression with an unknown mean.

What the blocks do to a token is taken for a smooth function of the token, known at the clusters.
Its best guess between them, linear and without bias, has weights that follow from distances alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from expedite.assignment import EMPTY_MASS, half_distances, own_values
from expedite.closeness import half_squares, keys_of, with_one
from expedite.clustering import Clustering, full_precision, labels
from expedite.graphs import is_exporting
from expedite.kernels import fits, fused
from expedite.spreading import Spread
from expedite.tiling import Tiles

# Added to the kernel's diagonal of ones: how little a cluster's own change is in doubt.
NUGGET = 1e-3
# A token so close to the centre of its cluster, in d²/2 over u, gets the cluster's very change,
# wherever the cluster's place is in the grid: those that moved to single tokens above all.
_EXACT = 1e-4
# On a CPU values are spread so many channels at a time: windows overlap, and copies of all would
# not fit the caches.
_CHANNELS = 64
# Unrolled elimination takes so many unknowns at once.
_BLOCK = 16
_TINY = 1e-30


@dataclass(frozen=True)
class TileWeights(Spread):
    """How much of each cluster of a tile's window goes into each token of the tile."""

    weights: Tensor  # (B, T, n, m) float32; each token's sum to one
    tiles: Tiles
    own: Tensor  # (B, N) the cluster that each token belongs to
    exact: Tensor  # (B, N, 1) whether a token is that cluster

    def apply(self, cluster_values: Tensor) -> Tensor:
        """See `Spread`."""
        if fused(cluster_values, self.weights):
            return self._fused(cluster_values)
        values = cluster_values.float()
        with full_precision(values.device):
            parts = [self._spread(part) for part in torch.split(values, _width(values), -1)]
        return torch.cat(parts, -1)

    def add_changes(self, after: Tensor, before: Tensor, tokens: Tensor) -> Tensor:
        """See `Spread`."""
        if fused(after, self.weights, before, tokens):
            return self._fused(after, before, tokens)
        return super().add_changes(after, before, tokens)

    def _fused(self, *values: Tensor) -> Tensor:
        from expedite.kernels import rows

        return rows.spread(self.weights, self.tiles, self.own, self.exact, *values)

    def _spread(self, values: Tensor) -> Tensor:
        spread = self.tiles.join(self.weights @ self.tiles.windows(values))
        return torch.where(self.exact, own_values(values, self.own), spread)


def _width(values: Tensor) -> int:
    """How many channels are spread at once."""
    in_parts = values.device.type == "cpu" and not torch.compiler.is_compiling()
    return _CHANNELS if in_parts else max(1, values.shape[-1])


def kriging_weights(clustering: Clustering, tiles: Tiles) -> TileWeights:
    """Weigh all clusters of the windows by how much each says of the change at a token.

    Two changes are as alike as u / (u + d²/2), the rational quadratic kernel (Rasmussen and
    Williams 2006, Eq. 4.19 with α=1), for a squared distance d² and the clusters' mean square u.
    Weights w of a token minimise the expected squared error of Σ w_j Δ_j under Σ w_j = 1, which
    asks for (K + `NUGGET`·I) w + μ·1 = k (Cressie 1993, Section 3.2).

    Args:
        clustering: From `clustering.cluster`.
        tiles: Which clusters are weighed for which tokens.

    Example:
        >>> from expedite.clustering import cluster
        >>> from expedite.tiling import make_one_tile
        >>> _, record = cluster(torch.randn(2, 192, 8), (12, 16), (5, 6))
        >>> found = kriging_weights(record, make_one_tile((12, 16), (5, 6), torch.device("cpu")))
        >>> found.weights.shape, bool((found.weights.sum(-1) - 1).abs().max() < 1e-4)
        (torch.Size([2, 1, 192, 30]), True)
    """
    there, unit = there_and_unit(clustering, tiles)
    own = labels(clustering)
    apart = half_distances(clustering.features, clustering.centers, own)
    weights = _weights(clustering, tiles, there, unit)
    return TileWeights(weights, tiles, own, apart <= _EXACT * unit)


def there_and_unit(clustering: Clustering, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Which places of the windows show a cluster, (B, T, m, 1) of 0 and 1, and u, (B, 1, 1)."""
    has_mass = (clustering.mass > EMPTY_MASS).float()[..., None]  # (B, h·w, 1)
    squares = 2 * half_squares(clustering.centers) * has_mass  # (B, h·w, 1)
    unit = (squares.sum(1, keepdim=True) / has_mass.sum(1, keepdim=True)).clamp_min(_TINY)
    return tiles.windows(has_mass) * tiles.within[..., None], unit


def _weights(clustering: Clustering, tiles: Tiles, there: Tensor, unit: Tensor) -> Tensor:
    """Of all places, (B, T, n, m)."""
    if fused(clustering.features, there) and fits(clustering.features, tiles):
        from expedite.kernels.kriging import weigh

        return weigh(clustering.features, clustering.centers, there, unit, NUGGET, tiles)
    unit = unit[:, None]
    centers = tiles.windows(clustering.centers)  # (B, T, m, D)
    keys = keys_of(centers)
    among = _likeness(centers, keys, unit) * there * there.mT  # (B, T, m, m)
    system = among + torch.where(there > 0, NUGGET, 1).squeeze(-1).diag_embed()
    inverse = invert(system) * there  # without a part for clusters that are not there
    # Nothing as large as the weights has a name longer than it is needed: with few channels it is
    # as large as the tokens.
    free = _likeness(tiles.split(clustering.features), keys, unit) @ inverse  # (B, T, n, m)
    ones = (inverse @ there).mT  # (B, T, 1, m)
    missing = (1 - free.sum(-1, keepdim=True)) / ones.sum(-1, keepdim=True).clamp_min(_TINY)
    return free.addcmul_(missing, ones)


def _likeness(points: Tensor, keys: Tensor, unit: Tensor) -> Tensor:
    """The kernel (B, T, n, m) between points (B, T, n, D) and clusters by their `keys_of`."""
    return unit / (unit + _halved(points, keys).clamp_min(0))


def _halved(points: Tensor, keys: Tensor) -> Tensor:
    """Halves of squared distances, which rounding may take below 0."""
    return half_squares(points) - with_one(points) @ keys.mT


def invert(matrix: Tensor) -> Tensor:
    """Inverses of symmetric positive definite matrices (..., m, m).

    By Cholesky decomposition, or by elimination where there is none. For as many tokens the inverse
    and a product take less time than substitution.

    Example:
        >>> invert(torch.tensor([[2.0, 1.0], [1.0, 1.0]])).round()
        tensor([[ 1., -1.],
                [-1.,  2.]])
    """
    if _decomposes(matrix):
        inverse: Tensor = torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix).L)
        return inverse
    return eliminate(matrix)


def _decomposes(matrix: Tensor) -> bool:
    """Whether a decomposition runs here: ONNX has none, MPS not all, and CUDA graphs may not."""
    if is_exporting():
        return False
    device = matrix.device.type
    return device == "cpu" or (device == "cuda" and not torch.compiler.is_compiling())


def eliminate(matrix: Tensor) -> Tensor:
    """`invert` by products and sums alone.

    Gaussian elimination of `_BLOCK` unknowns at a time; a positive definite matrix needs no
    pivoting.
    """
    uppers, sides = [], []
    size = matrix.shape[-1]
    rhs = torch.eye(size, device=matrix.device).expand_as(matrix)
    for start in range(0, size, _BLOCK):
        block = min(_BLOCK, size - start)
        inverse = _inverse(matrix[..., :block, :block])
        upper, side = inverse @ matrix[..., :block, block:], inverse @ rhs[..., :block, :]
        below = matrix[..., block:, :block]
        rhs = rhs[..., block:, :] - below @ side
        matrix = matrix[..., block:, block:] - below @ upper
        uppers.append(upper)
        sides.append(side)
    solution = rhs  # empty: nothing is left after the last block
    for upper, side in zip(reversed(uppers), reversed(sides), strict=True):
        solution = torch.cat([side - upper @ solution, solution], -2)
    return solution


def _inverse(matrix: Tensor) -> Tensor:
    """Of a small positive definite matrix (..., b, b): Gauss and Jordan's, one unknown a step."""
    for unit in torch.eye(matrix.shape[-1], device=matrix.device)[..., None]:  # (b, 1)
        row, column = unit.mT @ matrix, matrix @ unit
        matrix = matrix - (column - unit) @ (row + unit.mT) / (row @ unit)
    return matrix
