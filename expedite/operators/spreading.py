"""How values of clusters come back to the tokens: what every set of weights can do."""

from abc import ABC, abstractmethod

from torch import Tensor


class Spread(ABC):
    """How values of clusters are spread over tokens."""

    @abstractmethod
    def apply(self, cluster_values: Tensor) -> Tensor:
        """Spread values of clusters (B, h·w, C) over the tokens, (B, N, C) float32."""

    def add_changes(self, after: Tensor, before: Tensor, tokens: Tensor) -> Tensor:
        """Add what changed in the clusters to the tokens.

        Args:
            after: (B, h·w, C) what the blocks made of the clusters.
            before: (B, h·w, C) the clusters as they were.
            tokens: (B, N, C) as they were.

        Returns:
            (B, N, C) in the dtype of `after`.
        """
        return self.apply(after.float() - before).add_(tokens).to(after.dtype)
