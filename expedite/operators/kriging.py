"""Weights of clusters by ordinary kriging: Gaussian process regression with an unknown mean.

What the blocks do to a token is taken for a smooth function of the token, known at the clusters.
Its best guess between them, linear and without bias, has weights that follow from distances alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from expedite.geometry.graphs import is_plain
from expedite.geometry.tiling import Tiles
from expedite.operators.assignment import flat_index, half_distances, own_values
from expedite.operators.closeness import half_squares
from expedite.operators.clustering import Clustering, full_precision, labels
from expedite.operators.inverse import invert
from expedite.operators.kernels import fits, fused
from expedite.operators.spreading import Spread

# Added to the kernel's diagonal of ones: how little a cluster's own change is in doubt.
NUGGET = 1e-3
# A token so close to the centre of its cluster, in d²/2 over u, gets the cluster's very change,
# wherever the cluster's place is in the grid: those that moved to single tokens above all.
_EXACT = 1e-4
# On a CPU values are spread over some so many tokens at a time: windows overlap, and copies of all
# would not fit the caches.
_TOKENS = 256
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
            if not self._takes_parts(values):
                return self._spread(values)
            tokens = values.new_empty(*self.own.shape, values.shape[2])
            for places, rows in self._parts(values):
                tokens[places] = rows
        return tokens

    def add_changes(self, after: Tensor, before: Tensor, tokens: Tensor) -> Tensor:
        """See `Spread`."""
        if fused(after, self.weights, before, tokens):
            return self._fused(after, before, tokens)
        if not self._takes_parts(after):
            return super().add_changes(after, before, tokens)
        changes = (after.float() - before).float()  # also where tokens are float64
        changed = torch.empty_like(tokens, dtype=after.dtype)
        with full_precision(changes.device):
            for places, rows in self._parts(changes):
                changed[places] = rows.add_(tokens[places])
        return changed

    def _fused(self, *values: Tensor) -> Tensor:
        from expedite.operators.kernels import rows

        return rows.spread(self.weights, self.tiles, self.own, self.exact, *values)

    def _takes_parts(self, values: Tensor) -> bool:
        """Whether values are spread part by part: more operations, that have less to move."""
        return is_plain(values) and (self.tiles.rows.tiles > 1 or len(self.own) > 1)

    def _parts(self, values: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """Images and tokens with the values spread over them, few enough at once for the caches."""
        for tiles, row, places in self.tiles.bands():
            count = max(1, _TOKENS // (places.stop - places.start))
            for first in range(0, len(self.own), count):
                images = slice(first, first + count)
                own, exact = self.own[images, places], self.exact[images, places]
                part = TileWeights(self.weights[images, row], tiles, own, exact)
                yield (images, places), part._spread(values[images])

    def _spread(self, values: Tensor) -> Tensor:
        spread = self.tiles.join(self.weights @ self.tiles.windows(values))
        if not is_plain(values):
            return torch.where(self.exact, own_values(values, self.own), spread)
        exact = self.exact.flatten().nonzero()[:, 0]
        own = flat_index(self.own, values.shape[1]).flatten()[exact]
        spread.flatten(0, 1)[exact] = values.flatten(0, 1).index_select(0, own)
        return spread


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
        >>> from expedite.operators.clustering import cluster
        >>> from expedite.geometry.tiling import make_one_tile
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
    has_mass = clustering.there.float()[..., None]  # (B, h·w, 1)
    squares = 2 * half_squares(clustering.centers) * has_mass  # (B, h·w, 1)
    unit = (squares.sum(1, keepdim=True) / has_mass.sum(1, keepdim=True)).clamp_min(_TINY)
    return tiles.windows(has_mass) * tiles.within[..., None], unit


def _weights(clustering: Clustering, tiles: Tiles, there: Tensor, unit: Tensor) -> Tensor:
    """Of all places, (B, T, n, m)."""
    if fused(clustering.features, there) and fits(clustering.features, tiles):
        from expedite.operators.kernels.kriging import weigh

        return weigh(clustering.features, clustering.centers, there, unit, NUGGET, tiles)
    scale = unit.rsqrt()
    centers = tiles.windows(clustering.centers * scale)  # (B, T, m, D)
    keys = _kernel_keys(centers)
    inverse = invert(_system(centers, keys, there)) * there  # of clusters that are there
    # Nothing as large as the weights has a name longer than it is needed: with few channels it is
    # as large as the tokens.
    free = _likeness(tiles.split(clustering.features * scale), keys) @ inverse  # (B, T, n, m)
    ones = (inverse @ there).mT  # (B, T, 1, m)
    shares = ones / ones.sum(-1, keepdim=True).clamp_min(_TINY)
    return free.addcmul_(1 - free.sum(-1, keepdim=True), shares)


def _system(centers: Tensor, keys: Tensor, there: Tensor) -> Tensor:
    """How alike the clusters of a window are, (B, T, m, m), and 1 of itself where there is none."""
    among = _likeness(centers, keys) * (there * there.mT)
    return among + torch.where(there > 0, NUGGET, 1).squeeze(-1).diag_embed()


def _likeness(points: Tensor, keys: Tensor) -> Tensor:
    """The kernel (B, T, n, m) between points (B, T, n, D) and clusters by their `_kernel_keys`.

    Both in units in which u is 1.
    """
    lifted = torch.cat([points, half_squares(points) + 1, torch.ones_like(points[..., :1])], -1)
    return (lifted @ keys.mT).clamp_min_(1).reciprocal_()


def _kernel_keys(centers: Tensor) -> Tensor:
    """Of centres s (..., D), -s, 1 and ‖s‖²/2: products with z, ‖z‖²/2 + 1 and 1 are 1 + d²/2."""
    return torch.cat([-centers, torch.ones_like(centers[..., :1]), half_squares(centers)], -1)
