"""Records of merged tokens, and the ways in which the full grid returns from them."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.geometry.tiling import make_tiles
from expedite.operators.assignment import Assignment, HardAssignment, own_values
from expedite.operators.choices import Basis
from expedite.operators.clustering import (
    Clustering,
    average_pool,
    pool,
    resolve_temperature,
)
from expedite.operators.metric import standardize
from expedite.operators.spreading import Spread
from expedite.plan import Plan


@dataclass(frozen=True)
class PooledAssignment:
    """Tokens averaged over regular bins, which overlap where sizes do not divide."""

    mass: Tensor  # (B, h·w) float32: how many tokens each bin stands for
    grid: tuple[int, int]
    clusters: tuple[int, int]

    @property
    def labels(self) -> Tensor:
        """The bin in the middle of which each token lies, (B, N) int64."""
        tiles = make_tiles(self.grid, self.clusters, 0, self.mass.device)
        return tiles.first_cell.expand(len(self.mass), -1)

    def means(self, values: Tensor, otherwise: Tensor) -> Tensor:
        """Means (B, h·w, C) of values (B or 1, N, C); there is no bin without tokens."""
        return average_pool(values.float(), self.grid, self.clusters)


def grouped(labels: Tensor, weight: Tensor, mass: Tensor, clusters: int) -> HardAssignment:
    """Tokens each of which goes into one.

    Args:
        labels: (B, N) int64: into which; each has a token.
        weight: (B, N) float32: with what weight in the mean.
        mass: (B, N) float32: how many tokens it stands for.
        clusters: Into how many.
    """
    by_weight = HardAssignment.of(labels, weight[..., None], clusters)
    return replace(by_weight, mass=group_sums(mass, labels, clusters))


def record_of(
    tokens: Tensor,
    assignment: Assignment,
    grid: tuple[int, int],
    clusters: tuple[int, int],
) -> Clustering:
    """The record of tokens (B, N, C), without what reconstruction by weights needs."""
    nothing = tokens.new_empty(tokens.shape[0], 0, 0, dtype=torch.float32)
    any_tokens = tokens[:, : clusters[0] * clusters[1]]  # no cluster is without tokens
    means = assignment.means(tokens, any_tokens).to(tokens.dtype)
    return Clustering(
        tokens, means, nothing, nothing, assignment.mass, assignment, nothing, grid, clusters,
        neighborhood=1, nearest=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Measuring:
    """How distances are measured for reconstruction by weights; see `Plan`."""

    temperature: float | Literal["auto"]
    projection: int | None
    basis: Basis

    @classmethod
    def of(cls, settled: Plan) -> "Measuring":
        assert settled.projection != "auto" and settled.basis is not None  # see `Plan.settled`
        return cls(settled.temperature, settled.projection, settled.basis)

    def complete(self, record: Clustering, features: Tensor | None) -> Clustering:
        """A record with what `reconstruction.token_weights` needs.

        Args:
            record: Without it.
            features: (B, N, D) in which distances are measured; None measures on the tokens.
        """
        compared = record.tokens if features is None else features
        z, unit = standardize(compared, self.projection, self.basis)
        centers = pool(z, record)
        own = Copied(record).apply(centers)
        tau = resolve_temperature(self.temperature, z, own, unit)
        return replace(record, features=z, centers=centers, temperature=tau)


class Upsampling(nn.Module):
    """Bilinear upsampling in place of weights; it has no parameters."""

    def forward(self, clustering: Clustering) -> Spread:
        return Upsampled(clustering.grid, clustering.clusters)


@dataclass(frozen=True)
class Upsampled(Spread):
    """Spreads values over the tokens bilinearly."""

    grid: tuple[int, int]
    clusters: tuple[int, int]

    def apply(self, cluster_values: Tensor) -> Tensor:
        """See `Spread`."""
        values = cluster_values.float().mT  # (B, C, h·w)
        as_map = values.reshape(*values.shape[:2], *self.clusters)
        return F.interpolate(as_map, size=self.grid, mode="bilinear").flatten(2).mT


class Copying(nn.Module):
    """Copies in place of weights; it has no parameters."""

    def forward(self, record: Clustering) -> Spread:
        return Copied(record)


@dataclass(frozen=True)
class Copied(Spread):
    """Gives every token the value of what it was merged into."""

    record: Clustering

    def apply(self, cluster_values: Tensor) -> Tensor:
        """See `Spread`; the clusters (B, n, C) are merged tokens."""
        assert self.record.assignment is not None  # or there were nothing to bring back
        return own_values(cluster_values.float(), self.record.assignment.labels)


def group_sums(values: Tensor, group: Tensor, count: int) -> Tensor:
    """Sums (B, count) over groups (B, N) of values (B, N).

    Example:
        >>> group_sums(torch.tensor([[4.0, 7.0, 8.0]]), torch.tensor([[0, 1, 0]]), 2)
        tensor([[12.,  7.]])
    """
    return values.new_zeros(group.shape[0], count).scatter_add(1, group, values)
