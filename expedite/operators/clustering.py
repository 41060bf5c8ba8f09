"""Token clustering: thousands of tokens into a few hundred centroids, by local EM as in SLIC.

Equations 2 and 3 of "Expediting Large-Scale Vision Transformer for Dense Prediction without
Fine-tuning" (arXiv 2210.01035), with the minus sign and the division by the mass that the printed
formulas lack. Undoing it is `reconstruction`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.geometry.constants import remembered
from expedite.geometry.tiling import Tiles, make_tiles, middle_tokens, take_rows
from expedite.operators.assignment import LEAST_SHARED, Assignment, HardAssignment, SoftAssignment
from expedite.operators.centroids import lengthen, sharpen
from expedite.operators.choices import Basis, check_sharpness
from expedite.operators.closeness import closeness, keys_of, with_one
from expedite.operators.kernels import EMPTY_MASS, fits, fused
from expedite.operators.metric import standardize
from expedite.operators.relocation import check_relocated, relocate

# The "auto" temperature over the mean squared distance between a token and its first centre.
AUTO_TEMPERATURE = 0.05
# Where the largest feature is 1, smaller temperatures would only sharpen rounding errors.
_LEAST_AUTO_TEMPERATURE = 1e-10
_TINY = 1e-30
# Scores that differ by no more, of themselves, are equal.
TIE = 1e-5


@dataclass(frozen=True)
class Clustering:
    """What `reconstruct` needs to bring the full grid back.

    `features` and `centers` are in the space of the distances: float32, scaled so that the largest
    is about 1, the mean taken off; `temperature` is in the same units.
    """

    tokens: Tensor  # (B, N, C) as they were clustered
    centroids: Tensor  # (B, h·w, C) means of the tokens, in their dtype
    features: Tensor  # (B, N, D)
    centers: Tensor  # (B, h·w, D)
    mass: Tensor  # (B, h·w) float32: how many tokens each cluster stands for
    assignment: Assignment | None  # None where nothing was merged
    temperature: Tensor  # (B, 1, 1)
    grid: tuple[int, int]
    clusters: tuple[int, int]
    neighborhood: int
    nearest: bool

    @property
    def is_identity(self) -> bool:
        """Whether nothing was merged."""
        return self.assignment is None

    @property
    def there(self) -> Tensor:
        """Which clusters stand for tokens, (B, h·w) bool."""
        is_shared = isinstance(self.assignment, SoftAssignment)
        return self.mass > (LEAST_SHARED if is_shared else EMPTY_MASS)


def cluster(
    tokens: Tensor,
    grid: tuple[int, int],
    clusters: tuple[int, int],
    *,
    iterations: int = 5,
    neighborhood: int = 5,
    temperature: float | Literal["auto"] = "auto",
    features: Tensor | None = None,
    mass: Tensor | None = None,
    nearest: bool = False,
    projection: int | None = None,
    basis: Basis = "hashed",
    hard: bool = False,
    relocated: float = 0.0,
    sharpness: float = 0.0,
    length: float = 0.0,
) -> tuple[Tensor, Clustering]:
    """Cluster the tokens of a grid into a smaller grid of centroids.

    Centres begin as adaptive averages over h×w bins (Eq. 2). Each step assigns every token to the
    cells around its own first cell by softmax(-d²/τ), then moves the centres to the means of what
    they were assigned (Eq. 3). A centre that nothing was assigned to stays where it is; its
    centroid is the token in the middle of its cell.

    Args:
        tokens: (B, N, C) in row-major order of the grid, N = H·W.
        grid: (H, W).
        clusters: (h, w), at most (H, W); where they are equal the tokens themselves are returned.
        iterations: EM steps κ.
        neighborhood: Side λ of the square of cells that a token may join, odd.
        temperature: τ in units of squared distance, or "auto": `AUTO_TEMPERATURE` times the mean
            squared distance between the tokens of an image and their first centres.
        features: (B, N, D) in which distances are measured; None measures them on the tokens.
        mass: (B, N) how much each token counts; None counts each once.
        nearest: Take first cells as the published code does, see `tiling.Axis`.
        projection: Measure distances on so many numbers for each token in place of all features;
            None measures on all.
        basis: What numbers those are, see `metric.standardize`.
        hard: In the last step every token joins its nearest centre alone.
        relocated: The share of the clusters that move at last from even ground to single tokens,
            see `relocation.relocate`; it needs `hard`.
        sharpness: How much less tokens count in their centroid the further they are from it, see
            `centroids.sharpen`; it needs `hard`.
        length: How much longer centroids are than those means, see `centroids.lengthen`.

    Returns:
        Centroids (B, h·w, C) in the dtype of the tokens, and the record for `reconstruct`.

    Raises:
        ExpediteError: Shapes do not fit, a setting is impossible, or there are more clusters than
            tokens along a side.

    Example:
        >>> centroids, record = cluster(torch.randn(2, 12 * 16, 8), (12, 16), (5, 6))
        >>> centroids.shape, record.mass.sum(1).round()
        (torch.Size([2, 30, 8]), tensor([192., 192.]))
    """
    check_shapes(tokens, grid, clusters)
    _check_settings(iterations, neighborhood, temperature, projection, hard, relocated)
    check_sharpness(sharpness, hard)
    if _keeps_every_token(grid, clusters):
        return tokens, unmerged(tokens, grid, neighborhood, mass)
    with full_precision(tokens.device):
        z, unit = standardize(tokens if features is None else features, projection, basis)
        centers = average_pool(z, grid, clusters)
        tiles = make_tiles(grid, clusters, neighborhood // 2, tokens.device, nearest=nearest)
        tau = resolve_temperature(temperature, z, take_rows(centers, tiles.first_cell), unit)
        weight = z.new_ones(*z.shape[:2], 1) if mass is None else mass.float()[..., None]
        assignment, centers = _em(z, weight, centers, tau, iterations, tiles, hard)
        count = int(relocated * clusters[0] * clusters[1])
        if isinstance(assignment, HardAssignment) and count:
            assignment, centers = relocate(assignment, z, centers, weight, clusters, count)
        core = assignment
        if isinstance(assignment, HardAssignment) and sharpness:
            core, centers = sharpen(assignment, z, centers, weight, sharpness)
        middle = take_rows(tokens, middle_tokens(grid, clusters, tokens.device))
        centroids = core.means(tokens, middle)
        if length:
            centroids = lengthen(centroids, tokens, middle, assignment, length)
        centroids = centroids.to(tokens.dtype)
    return centroids, Clustering(
        tokens, centroids, z, centers, assignment.mass, assignment, tau, grid, clusters,
        neighborhood, nearest,
    )  # fmt: skip


class TokenClustering(nn.Module):
    """`cluster` with its settings fixed; it has no parameters.

    `clusters` is (h, w), or a function that gives it for a grid (H, W).

    Example:
        >>> layer = TokenClustering((5, 6), iterations=3)
        >>> centroids, record = layer(torch.randn(2, 192, 8), (12, 16))
        >>> centroids.shape
        torch.Size([2, 30, 8])
    """

    def __init__(
        self,
        clusters: tuple[int, int] | Callable[[tuple[int, int]], tuple[int, int]],
        iterations: int = 5,
        neighborhood: int = 5,
        temperature: float | Literal["auto"] = "auto",
        nearest: bool = False,
        projection: int | None = None,
        basis: Basis = "hashed",
        hard: bool = False,
        relocated: float = 0.0,
        sharpness: float = 0.0,
        length: float = 0.0,
    ) -> None:
        super().__init__()
        _check_settings(iterations, neighborhood, temperature, projection, hard, relocated)
        check_sharpness(sharpness, hard)
        self.clusters = clusters
        self.iterations = iterations
        self.neighborhood = neighborhood
        self.temperature: float | Literal["auto"] = temperature
        self.nearest = nearest
        self.projection = projection
        self.basis: Basis = basis
        self.hard = hard
        self.relocated = relocated
        self.sharpness = sharpness
        self.length = length

    def forward(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        features: Tensor | None = None,
        mass: Tensor | None = None,
    ) -> tuple[Tensor, Clustering]:
        return cluster(
            tokens,
            grid,
            self.clusters(grid) if callable(self.clusters) else self.clusters,
            iterations=self.iterations,
            neighborhood=self.neighborhood,
            temperature=self.temperature,
            features=features,
            mass=mass,
            nearest=self.nearest,
            projection=self.projection,
            basis=self.basis,
            hard=self.hard,
            relocated=self.relocated,
            sharpness=self.sharpness,
            length=self.length,
        )


def pool(values: Tensor, clustering: Clustering) -> Tensor:
    """Average values of tokens over the clusters they were assigned to.

    Args:
        values: (B, N, C) or (1, N, C), on the grid that was clustered.
        clustering: From `cluster`.

    Returns:
        (B, h·w, C) in the dtype of the values; the clusters' own tokens where nothing was merged.

    Example:
        >>> tokens = torch.randn(1, 192, 8)
        >>> centroids, record = cluster(tokens, (12, 16), (5, 6))
        >>> torch.allclose(pool(tokens, record), centroids)
        True
    """
    if clustering.assignment is None:
        return values
    with full_precision(values.device):
        middle = take_rows(
            values, middle_tokens(clustering.grid, clustering.clusters, values.device)
        )
        means = clustering.assignment.means(values, middle)
    return means.to(values.dtype)


def labels(clustering: Clustering) -> Tensor:
    """The cluster that each token leans to most, (B, N) int64.

    Example:
        >>> _, record = cluster(torch.randn(1, 192, 8), (12, 16), (5, 6))
        >>> labels(record).shape
        torch.Size([1, 192])
    """
    if clustering.assignment is None:
        mass = clustering.mass
        return torch.arange(mass.shape[1], device=mass.device).expand_as(mass)
    return clustering.assignment.labels


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Keep autocast out: distances of half-precision products would be noise."""
    # Not all versions compile this question; devices that compile have autocast.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
    if available and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _em(
    z: Tensor,
    weight: Tensor,
    centers: Tensor,
    tau: Tensor,
    iterations: int,
    tiles: Tiles,
    hard: bool,
) -> tuple[Assignment, Tensor]:
    if hard and fused(z, weight) and fits(z, tiles):
        from expedite.operators.kernels import em

        for _ in range(iterations - 1):
            centers = em.soft_step(z, weight, centers, tau, tiles)
        return _joined(em.nearest(z, weight, centers, tau, tiles, TIE), z, weight, centers)
    counted = tiles.split(weight) * tiles.filled[..., None]  # (B, T, n, 1)
    points = tiles.split(with_one(z))  # (B, T, n, D + 1)
    weighted = points * counted  # by whose column of ones the M-step sums the mass as well

    scale = 2 / tau

    def scores(centers: Tensor) -> Tensor:
        return closeness(points, keys_of(centers) * scale, tiles)  # (B, T, n, m)

    for _ in range(iterations - hard):
        assignment = scores(centers).softmax(-1)
        sums = tiles.add_windows(assignment.mT @ weighted)  # (B, h·w, D + 1)
        total = sums[..., -1:]
        means = sums[..., :-1] / total.clamp_min(_TINY)
        centers = torch.where(total > (EMPTY_MASS if hard else LEAST_SHARED), means, centers)
    if not hard:
        return SoftAssignment(assignment * counted, total.squeeze(-1), tiles), centers
    nearest = tiles.cells_at(first_of_best(scores(centers)))
    return _joined(tiles.join(nearest)[..., 0], z, weight, centers)


def first_of_best(scores: Tensor) -> Tensor:
    """The place (..., 1) of the largest of scores (..., m), the first of equals.

    Centres that EM draws to one token are equally near, and rounding would choose among them.
    """
    best = scores.amax(-1, keepdim=True)
    place = torch.arange(scores.shape[-1], device=scores.device)
    # As a minimum: `argmax` of what is best takes a CPU three times as long.
    among = torch.where(scores >= best - TIE * (1 + best.abs()), place, place[-1])
    return among.amin(-1, keepdim=True)


def _joined(
    labels: Tensor, z: Tensor, weight: Tensor, centers: Tensor
) -> tuple[HardAssignment, Tensor]:
    """Every token in one cluster, and the means of those."""
    joined = HardAssignment.of(labels, weight, centers.shape[1])
    return joined, joined.means(z, centers)


def resolve_temperature(temperature: float | str, z: Tensor, own: Tensor, unit: Tensor) -> Tensor:
    """The temperature (B, 1, 1) of features z (B, N, D) whose first centres are `own` (B, N, D)."""
    if temperature == "auto":
        distance: Tensor = torch.linalg.vector_norm(z - own, dim=-1)  # (B, N)
        spread = distance.square().mean(1)  # (B,)
        return (AUTO_TEMPERATURE * spread).clamp_min(_LEAST_AUTO_TEMPERATURE)[:, None, None]
    # Infinite where tokens vanish, and weights would be NaN.
    return (float(temperature) / unit.square()).clamp(_TINY, 1 / _TINY)


def average_pool(x: Tensor, grid: tuple[int, int], clusters: tuple[int, int]) -> Tensor:
    """Adaptive average pooling to (B, h·w, C), as matrix products so that any size exports."""
    (rows,), (columns,) = (
        _pooling_matrix(size, cells, x.device) for size, cells in zip(grid, clusters, strict=True)
    )
    batch, _, channels = x.shape
    x = rows @ x.reshape(batch, grid[0], grid[1] * channels)  # (B, h, W·C)
    return (columns @ x.reshape(batch, clusters[0], grid[1], channels)).flatten(1, 2)


@remembered
def _pooling_matrix(size: int, cells: int, device: torch.device) -> tuple[Tensor]:
    cell = torch.arange(cells, device=device)[:, None]
    place = torch.arange(size, device=device)
    end = ((cell + 1) * size + cells - 1) // cells
    inside = ((place >= cell * size // cells) & (place < end)).float()
    return (inside / inside.sum(1, keepdim=True),)  # (cells, size)


def _keeps_every_token(grid: tuple[int, int], clusters: tuple[int, int]) -> bool:
    return grid == clusters


def unmerged(
    tokens: Tensor, grid: tuple[int, int], neighborhood: int = 1, mass: Tensor | None = None
) -> Clustering:
    """The record where every token stays itself."""
    batch, count, _ = tokens.shape
    weight = tokens.new_ones(batch, count, dtype=torch.float32) if mass is None else mass.float()
    return Clustering(
        tokens, tokens, tokens, tokens, weight, None, weight, grid, grid, neighborhood, False
    )


def check_shapes(tokens: Tensor, grid: tuple[int, int], clusters: tuple[int, int]) -> None:
    """Refuse tokens that are not of the grid, and more clusters than tokens along a side."""
    if tokens.dim() != 3 or not tokens.is_floating_point():
        raise ExpediteError(
            f"tokens of shape {tuple(tokens.shape)} and {tokens.dtype} were given; floating-point "
            "tokens (B, N, C) can be clustered"
        )
    if tokens.shape[1] != grid[0] * grid[1]:
        raise ExpediteError(
            f"{tokens.shape[1]} tokens were given for a grid of {grid[0]}×{grid[1]}, which has "
            f"{grid[0] * grid[1]}; prefix tokens must be taken off first"
        )
    if not all(1 <= cells <= size for cells, size in zip(clusters, grid, strict=True)):
        raise ExpediteError(
            f"{clusters[0]}×{clusters[1]} clusters were asked of a grid of {grid[0]}×{grid[1]} "
            "tokens; each side can have from 1 to as many clusters as tokens"
        )


def _check_settings(
    iterations: int,
    neighborhood: int,
    temperature: float | str,
    projection: int | None,
    hard: bool,
    relocated: float,
) -> None:
    check_relocated(relocated, hard)
    if projection is not None and projection < 1:
        raise ExpediteError(f"{projection} projections were asked; at least 1, or None, is due")
    if iterations < 1:
        raise ExpediteError(f"{iterations} EM iterations were asked; at least 1 is needed")
    if neighborhood < 1 or neighborhood % 2 == 0:
        raise ExpediteError(
            f"a neighborhood of {neighborhood} was asked; the side of a square around a cell is "
            "odd: 1, 3, 5, 7, ..."
        )
    if temperature != "auto" and not (isinstance(temperature, (int, float)) and temperature > 0):
        raise ExpediteError(
            f"the temperature {temperature!r} was asked; a number above 0 or 'auto' would work"
        )
