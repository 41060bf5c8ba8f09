"""Clustering inside windows: every window of a map becomes a smaller window of centroids.

Maps are (B, H, W, C). Windows begin at the top left corner; the border may cut the last ones short,
and only what is there is clustered. So a map is at most four regions of equal windows, and each
region is one call of `clustering.cluster` with the windows in its batch. Without borders between
windows the map is one region. With padding, zeros that fill the last windows up are tokens too.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.operators.choices import Scope, Weighting, check_weights
from expedite.operators.clustering import Clustering, TokenClustering, labels, pool
from expedite.operators.reconstruction import TokenReconstruction, check_count, token_weights
from expedite.operators.spreading import Spread

Size = tuple[int, int]
WindowWeights = tuple[Spread | None, ...]  # one for each region, None where it stayed itself


@dataclass(frozen=True)
class WindowClustering:
    """What `reconstruct_windows` needs to bring the full map back."""

    regions: tuple[Clustering, ...]  # whole windows, then those cut short by the border
    mass: Tensor  # (B, h, w) float32: how many tokens each cluster stands for
    grid: Size  # (H, W)
    window: Size  # tokens of a whole window
    cells: Size  # clusters of a whole window
    borders: bool  # whether every window was clustered alone
    padding: bool = False  # whether zeros that fill windows up were clustered too

    @property
    def filled(self) -> Size:
        """The map (H, W) with what fills its last windows up, where that was clustered too."""
        return filled(self.grid, self.window) if self.padding else self.grid

    @property
    def clusters(self) -> Size:
        """The clustered map (h, w)."""
        return clustered(self.filled, self.window, self.cells)

    @property
    def layouts(self) -> tuple["_Layout", "_Layout"]:
        """Where the regions lie on the map of tokens, and on that of clusters."""
        return _layouts(self.grid, self.filled, self.window, self.cells, self.borders)

    @property
    def is_identity(self) -> bool:
        """Whether nothing was merged."""
        return all(region.is_identity for region in self.regions)


def clustered(size: Size, window: Size, cells: Size) -> Size:
    """How many clusters stand for a map, or a part of a window, of `size` tokens.

    Example:
        >>> clustered((64, 64), window=(14, 14), cells=(10, 10))
        (46, 46)
    """
    rows, columns = (-(-n * k // of) for n, of, k in zip(size, window, cells, strict=True))
    return rows, columns


def filled(size: Size, window: Size) -> Size:
    """A map of `size` tokens filled up to whole windows.

    Example:
        >>> filled((64, 64), window=(14, 14))
        (70, 70)
    """
    rows, columns = (-(-n // of) * of for n, of in zip(size, window, strict=True))
    return rows, columns


def cluster_windows(
    tokens: Tensor,
    window: Size,
    cells: Size,
    *,
    features: Tensor | None = None,
    mass: Tensor | None = None,
    borders: bool = True,
    padding: bool = False,
    **settings: Any,
) -> tuple[Tensor, WindowClustering]:
    """Cluster every window of a map alone.

    Args:
        tokens: (B, H, W, C), any H and W.
        window: Rows and columns of a window.
        cells: Rows and columns of clusters in its place, at most as many; where they are equal the
            tokens themselves are returned. A window that the border leaves r of K rows has ⌈r·k/K⌉
            rows of clusters, and so for columns.
        features: (B, H, W, D) in which distances are measured; None measures them on the tokens.
        mass: (B, H, W) how much each token counts; None counts each once.
        borders: False lets clusters reach over the borders of windows: the whole map is clustered
            to as many.
        padding: True clusters the zeros that fill up the last windows as tokens like others, as the
            published code does; the map of centroids is that of the filled map then.
        settings: The other settings of `clustering.cluster`.

    Returns:
        The map of centroids (B, ⌈H·k/K⌉, ⌈W·k/K⌉, C), every cell of which stands for tokens, and
        the record for `reconstruct_windows`.

    Raises:
        ExpediteError: As `clustering.cluster`, or the tokens are no map.

    Example:
        >>> centroids, record = cluster_windows(torch.randn(2, 10, 12, 8), (4, 4), (2, 2))
        >>> centroids.shape, record.mass.sum((1, 2)).round()
        (torch.Size([2, 5, 6, 8]), tensor([120., 120.]))
    """
    if tokens.dim() != 4:
        raise ExpediteError(
            f"tokens of shape {tuple(tokens.shape)} were given; windows are those of a map "
            "(B, H, W, C)"
        )
    layer = WindowTokenClustering(window, cells, borders=borders, padding=padding, **settings)
    grid = tokens.shape[1], tokens.shape[2]
    output: tuple[Tensor, WindowClustering] = layer(tokens, grid, features, mass)
    return output


def reconstruct_windows(
    cluster_tokens: Tensor,
    clustering: WindowClustering,
    *,
    reconstruction: Scope = "local",
    weights: Weighting = "kriging",
    k: int | None = None,
    delta: bool = True,
) -> Tensor:
    """Bring back the full map from a map of cluster tokens, every window from its own clusters.

    Args:
        cluster_tokens: (B, h, w, C) what blocks made of the centroids.
        clustering: The record that `cluster_windows` returned with those centroids.
        reconstruction: See `reconstruction.reconstruct`, as for `weights` and `delta`.
        weights: See `reconstruction.reconstruct`.
        k: See `reconstruction.token_weights`; a window cut short by the border may have fewer
            clusters, and takes them all.
        delta: See `reconstruction.reconstruct`.

    Returns:
        (B, H, W, C) in the dtype of the cluster tokens.

    Raises:
        ExpediteError: As `reconstruction.reconstruct`.

    Example:
        >>> tokens = torch.randn(2, 10, 12, 8)
        >>> centroids, record = cluster_windows(tokens, (4, 4), (3, 3))
        >>> torch.equal(reconstruct_windows(centroids, record), tokens)
        True
    """
    layer = WindowTokenReconstruction(reconstruction, weights, k, delta)
    restored: Tensor = layer(cluster_tokens, clustering)
    return restored


class WindowTokenClustering(nn.Module):
    """`cluster_windows` with its settings fixed; it has no parameters.

    Settings are those of `clustering.TokenClustering`, in its order.
    """

    def __init__(
        self,
        window: Size,
        cells: Size,
        *settings: Any,
        borders: bool = True,
        padding: bool = False,
        **named: Any,
    ) -> None:
        super().__init__()
        self.window = window
        self.cells = cells
        self.borders = borders
        self.padding = padding and cells != window  # where each token stays one, nothing fills up
        cells_of = partial(clustered, window=window, cells=cells)
        self.cluster = TokenClustering(cells_of, *settings, **named)

    def forward(
        self,
        tokens: Tensor,
        grid: Size,
        features: Tensor | None = None,
        mass: Tensor | None = None,
    ) -> tuple[Tensor, WindowClustering]:
        size = filled(grid, self.window) if self.padding else grid
        above, below = _layouts(grid, size, self.window, self.cells, self.borders)
        centroids, records = [], []
        for size, body, space, weight in zip(
            above.sizes,
            above.split(tokens),
            above.split(features),
            above.split(None if mass is None else mass[..., None]),
            strict=True,
        ):
            counts = None if weight is None else weight[..., 0]
            means, record = self.cluster(body, size, space, counts)
            centroids.append(means)
            records.append(record)
        total = below.join([record.mass[..., None] for record in records])[..., 0]
        clustering = WindowClustering(
            tuple(records), total, grid, self.window, self.cells, self.borders, self.padding
        )
        return tokens if clustering.is_identity else below.join(centroids), clustering


class WindowTokenWeighting(nn.Module):
    """`reconstruction.token_weights` for every region of windows; it has no parameters."""

    def __init__(self, reconstruction: Scope, weights: Weighting, k: int | None) -> None:
        super().__init__()
        self.reconstruction: Scope = reconstruction
        self.weights: Weighting = weights
        self.k = check_weights(weights, k)

    def forward(self, clustering: WindowClustering) -> WindowWeights:
        check_count(self.k, clustering.cells)
        return tuple(
            None if region.is_identity else self._weigh(region) for region in clustering.regions
        )

    def _weigh(self, region: Clustering) -> Spread:
        k = None if self.k is None else min(self.k, region.clusters[0] * region.clusters[1])
        return token_weights(region, reconstruction=self.reconstruction, weights=self.weights, k=k)


class WindowTokenReconstruction(nn.Module):
    """`reconstruct_windows` with its settings fixed; it has no parameters.

    Weights made before with `weigh` can be given again, as for `TokenReconstruction`.
    """

    def __init__(
        self, reconstruction: Scope, weights: Weighting, k: int | None, delta: bool
    ) -> None:
        super().__init__()
        self.weigh = WindowTokenWeighting(reconstruction, weights, k)
        self.reconstruct = TokenReconstruction(reconstruction, weights, k, delta)

    def forward(
        self,
        cluster_tokens: Tensor,
        clustering: WindowClustering,
        weights: WindowWeights | None = None,
    ) -> Tensor:
        if clustering.is_identity:
            return cluster_tokens
        above, below = clustering.layouts
        regions = clustering.regions
        spread = weights or self.weigh(clustering)
        return above.join(
            [
                self.reconstruct(body, record, weight)
                for body, record, weight in zip(
                    below.split(cluster_tokens), regions, spread, strict=True
                )
            ]
        )


def pool_windows(values: Tensor, clustering: WindowClustering) -> Tensor:
    """Average values of a map's tokens over the clusters that they were assigned to.

    Args:
        values: (B, H, W, C) on the map that was clustered.
        clustering: From `cluster_windows`.

    Returns:
        (B, h, w, C).

    Example:
        >>> tokens = torch.randn(1, 10, 12, 8)
        >>> centroids, record = cluster_windows(tokens, (4, 4), (3, 3))
        >>> torch.allclose(pool_windows(tokens, record), centroids, atol=1e-6)
        True
    """
    above, below = clustering.layouts
    parts = zip(above.split(values), clustering.regions, strict=True)
    return below.join([pool(body, region) for body, region in parts])


def window_labels(clustering: WindowClustering) -> Tensor:
    """The cluster that each token leans to most, by its place in the clustered map, (B, H·W) int64.

    Example:
        >>> _, record = cluster_windows(torch.randn(1, 10, 12, 8), (4, 4), (2, 2))
        >>> found = window_labels(record)
        >>> found.shape, int(found.max())  # of 5×6 clusters
        (torch.Size([1, 120]), 29)
    """
    above, below = clustering.layouts
    places = torch.arange(clustering.mass[0].numel(), device=clustering.mass.device)
    as_a_map = places.view(1, *clustering.clusters, 1).expand(len(clustering.mass), -1, -1, -1)
    parts = zip(below.split(as_a_map), clustering.regions, strict=True)
    found = [place.gather(1, labels(region)[..., None]) for place, region in parts]
    return above.join(found).flatten(1)


def as_map(tokens: Tensor, grid: Size) -> Tensor:
    """The map (B, H, W, C) of tokens (B, H·W, C).

    Example:
        >>> as_map(torch.zeros(2, 72, 8), (6, 12)).shape
        torch.Size([2, 6, 12, 8])
    """
    return tokens.reshape(tokens.shape[0], *grid, tokens.shape[-1])


def partition(x: Tensor, window: Size) -> Tensor:
    """Cut a map (B, n·h, m·w, C) into its windows (B·n·m, h, w, C), row by row.

    Example:
        >>> partition(torch.zeros(2, 6, 12, 8), (3, 4)).shape
        torch.Size([12, 3, 4, 8])
    """
    _, rows, columns, channels = x.shape
    (h, w), n, m = window, rows // window[0], columns // window[1]
    return x.reshape(-1, n, h, m, w, channels).transpose(2, 3).flatten(0, 2)


def unpartition(windows: Tensor, count: Size) -> Tensor:
    """The map (B, n·h, m·w, C) of windows (B·n·m, h, w, C), the inverse of `partition`.

    Example:
        >>> unpartition(torch.zeros(12, 3, 4, 8), (2, 3)).shape
        torch.Size([2, 6, 12, 8])
    """
    x = windows.reshape(-1, *count, *windows.shape[1:])  # (B, n, m, h, w, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


@dataclass(frozen=True)
class _Layout:
    """Where windows lie on a map: along each side so many of one length, then a shorter one.

    The last windows may reach beyond the map, where zeros stand.
    """

    grid: Size
    rows: tuple[tuple[int, int], ...]  # (count, length)
    columns: tuple[tuple[int, int], ...]

    @property
    def sizes(self) -> list[Size]:
        """The size of the windows of each region."""
        return [(rows[1], columns[1]) for rows in self.rows for columns in self.columns]

    def split(self, x: Tensor | None) -> list[Any]:
        """Cut a map (B, H, W, C) into regions of windows, each (B·count, N, C)."""
        if x is None:
            return [None] * len(self.sizes)
        heights, widths = ([n * size for n, size in side] for side in (self.rows, self.columns))
        down, across = sum(heights) - x.shape[1], sum(widths) - x.shape[2]
        x = F.pad(x, (0, 0, 0, across, 0, down)) if down or across else x
        bands = torch.split_with_sizes(x, heights, 1)
        regions = [part for band in bands for part in torch.split_with_sizes(band, widths, 2)]
        pairs = zip(regions, self.sizes, strict=True)
        return [partition(region, size).flatten(1, 2) for region, size in pairs]

    def join(self, regions: list[Tensor]) -> Tensor:
        """The map (B, H, W, C) of regions, the inverse of `split`."""
        parts = iter(regions)
        bands = []
        for count, height in self.rows:
            band = []
            for across, width in self.columns:
                tokens = next(parts)  # (B·count, N, C)
                windows = tokens.reshape(-1, height, width, tokens.shape[-1])
                band.append(unpartition(windows, (count, across)))
            bands.append(torch.cat(band, 2))
        return torch.cat(bands, 1)[:, : self.grid[0], : self.grid[1]]


def _layouts(
    grid: Size, size: Size, window: Size, cells: Size, borders: bool
) -> tuple[_Layout, _Layout]:
    """The windows on a map of `grid` tokens filled up to `size`, and on the clustered map."""
    clusters = clustered(size, window, cells)
    if not borders:
        window, cells = size, clusters
    sides = [_stretches(*side) for side in zip(size, window, cells, strict=True)]
    rows, columns = (tuple((count, length) for count, length, _ in side) for side in sides)
    h, w = (tuple((count, length) for count, _, length in side) for side in sides)
    return _Layout(grid, rows, columns), _Layout(clusters, h, w)


def _stretches(side: int, window: int, cells: int) -> list[tuple[int, int, int]]:
    """Along one side: how many windows, of so many tokens, with so many clusters."""
    whole, rest = divmod(side, window)
    both = [(whole, window, cells), (1, rest, -(-rest * cells // window))]
    return [stretch for stretch in both if stretch[0] * stretch[1]]
