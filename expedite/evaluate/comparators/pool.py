"""Adaptive average pooling in place of clustering (Tables 3 and 4 of arXiv 2210.01035)."""

from typing import ClassVar

from torch import Tensor

from expedite.clustering import average_pool
from expedite.evaluate.comparators.base import Measured, MergeSession, Merging
from expedite.evaluate.comparators.records import Pooled, without_features


class TokenPooling(Merging):
    """Pools tokens over the bins of a span's cluster grid, whatever they stand for.

    Example:
        >>> import torch
        >>> from expedite.plan import Span
        >>> layer = TokenPooling(Span(0, clusters=(1, 2)))
        >>> pooled, record = layer(torch.ones(1, 12, 8), (3, 4), Measured())
        >>> pooled.shape, record.mass
        (torch.Size([1, 2, 8]), tensor([[6., 6.]]))
    """

    def merge(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        clusters: tuple[int, int],
        measured: Measured,
        mass: Tensor,
    ) -> Pooled:
        pooled = average_pool(tokens.float(), grid, clusters)  # (B, h·w, C)
        # Bins that overlap count some tokens twice, so masses are shares of all tokens.
        share = average_pool(mass[..., None], grid, clusters)[..., 0]  # (B, h·w)
        return Pooled(
            tokens=tokens,
            centroids=pooled.to(tokens.dtype),
            mass=share * (mass.sum(1) / share.sum(1))[:, None],
            grid=grid,
            clusters=clusters,
            **without_features(tokens),
        )


class PoolSession(MergeSession):
    """Tokens become the means of regular bins."""

    title: ClassVar[str] = "pooling"
    layer: ClassVar[type[Merging]] = TokenPooling
