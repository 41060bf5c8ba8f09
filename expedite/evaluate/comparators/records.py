"""Records of merged tokens, and the ways in which the full grid returns from them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.clustering import (
    Clustering,
    average_pool,
    project,
    resolve_temperature,
    standardize,
)
from expedite.plan import Plan
from expedite.reconstruction import Spread
from expedite.tiling import make_tiles

_TINY = 1e-30


class Merged(Clustering, ABC):
    """The record of tokens that were merged in another way than by clustering."""

    @abstractmethod
    def copies(self, values: Tensor) -> Tensor:
        """The value (B, N, C) of what each token was merged into, of values (B, n, C)."""


Record = TypeVar("Record", bound=Merged)


@dataclass(frozen=True)
class Pooled(Merged):
    """Tokens averaged over regular bins, which overlap where sizes do not divide."""

    def average(self, values: Tensor) -> Tensor:
        return average_pool(values.float(), self.grid, self.clusters).to(values.dtype)

    def copies(self, values: Tensor) -> Tensor:
        tiles = make_tiles(self.grid, self.clusters, 0, values.device)
        return values[:, tiles.first_cell]


@dataclass(frozen=True, kw_only=True)
class Groups(Merged):
    """Tokens each of which went into one."""

    group: Tensor  # (B, N) int64: into which
    weight: Tensor  # (B, N) float32: with what weight in the mean

    def average(self, values: Tensor) -> Tensor:
        return group_means(values, self.group, self.weight, self.mass.shape[1])

    def copies(self, values: Tensor) -> Tensor:
        return values.gather(1, self.group[..., None].expand(-1, -1, values.shape[2]))


def without_features(tokens: Tensor) -> dict[str, Any]:
    """Fields of a record that only reconstruction by weights needs, left empty."""
    nothing = tokens.new_empty(len(tokens), 0, 0, dtype=torch.float32)
    return {
        "features": nothing,
        "centers": nothing,
        "assignment": nothing[..., None],
        "temperature": nothing,
        "neighborhood": 1,
        "nearest": False,
    }


@dataclass(frozen=True)
class Measuring:
    """How distances are measured for reconstruction by weights; see `Plan`."""

    temperature: float | Literal["auto"]
    projection: int | None

    @classmethod
    def of(cls, plan: Plan) -> "Measuring":
        return cls(plan.temperature, plan.projection)

    def complete(self, record: Record, features: Tensor | None) -> Record:
        """A record with what `reconstruction.token_weights` needs.

        Args:
            record: Without it.
            features: (B, N, D) in which distances are measured; None measures on the tokens.
        """
        z, unit = standardize(record.tokens if features is None else features)
        z = project(z, self.projection)
        centers = record.average(z)
        tau = resolve_temperature(self.temperature, z, record.copies(centers), unit)
        return replace(record, features=z, centers=centers, temperature=tau)


class Upsampling(nn.Module):
    """Bilinear upsampling in place of weights; it has no parameters."""

    def forward(self, clustering: Clustering) -> Spread:
        return Upsampled(clustering.grid, clustering.clusters)


@dataclass(frozen=True)
class Upsampled:
    """Spreads values over the tokens bilinearly."""

    grid: tuple[int, int]
    clusters: tuple[int, int]

    def apply(self, cluster_values: Tensor) -> Tensor:
        """Spread values of clusters (B, h·w, C) over the tokens, (B, N, C) float32."""
        values = cluster_values.float().mT  # (B, C, h·w)
        as_map = values.reshape(*values.shape[:2], *self.clusters)
        return F.interpolate(as_map, size=self.grid, mode="bilinear").flatten(2).mT


class Copying(nn.Module):
    """Copies in place of weights; it has no parameters."""

    def forward(self, record: Merged) -> Spread:
        return Copied(record)


@dataclass(frozen=True)
class Copied:
    """Gives every token the value of what it was merged into."""

    record: Merged

    def apply(self, cluster_values: Tensor) -> Tensor:
        """Spread values of merged tokens (B, n, C) over the tokens, (B, N, C) float32."""
        return self.record.copies(cluster_values.float())


def group_means(values: Tensor, group: Tensor, weight: Tensor, count: int) -> Tensor:
    """Weighted means of values over groups.

    Args:
        values: (B, N, C), or (1, N, C) for all images.
        group: (B, N) int64 below `count`; every group has a token.
        weight: (B, N) float32.
        count: How many groups.

    Returns:
        (B, count, C) in the dtype of the values.

    Example:
        >>> group, weight = torch.tensor([[0, 1, 0]]), torch.tensor([[1.0, 1.0, 3.0]])
        >>> group_means(torch.tensor([[[4.0], [7.0], [8.0]]]), group, weight, 2).flatten()
        tensor([7., 7.])
    """
    total = group_sums(weight, group, count)
    share = (weight / total.gather(1, group).clamp_min(_TINY))[..., None]  # (B, N, 1)
    weighted = values.float() * share  # (B, N, C)
    index = group[..., None].expand(-1, -1, values.shape[2])
    sums = weighted.new_zeros(len(group), count, values.shape[2]).scatter_add(1, index, weighted)
    return sums.to(values.dtype)


def group_sums(values: Tensor, group: Tensor, count: int) -> Tensor:
    """Sums (B, count) over groups of values (B, N)."""
    return values.new_zeros(len(group), count).scatter_add(1, group, values)
