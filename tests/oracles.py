"""Slow float64 loops written from the paper's equations, to check the operators against."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from expedite.operators.kriging import TileWeights
from expedite.operators.reconstruction import TokenWeights
from expedite.operators.relocation import SHARE
from expedite.plan import LENGTH, SHARPNESS

Grid = tuple[int, int]

# How plans cluster by default: in windows, where blocks take clusters to stand at regular cells of
# the whole map, and elsewhere; the latter two on `normalized` tokens.
IN_WINDOWS: dict[str, Any] = {"projection": 64, "hard": True, "relocated": SHARE}
IN_PLACE: dict[str, Any] = {
    "projection": 32,
    "basis": "principal",
    "hard": True,
    "sharpness": SHARPNESS,
    "length": LENGTH,
}
RELOCATED: dict[str, Any] = {**IN_PLACE, "relocated": SHARE}


def normalized(tokens: Tensor) -> Tensor:
    """Every token (B, N, C) without its mean and of unit variance."""
    apart = tokens - tokens.mean(-1, keepdim=True)
    return apart / (apart.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def first_cells(grid: Grid, clusters: Grid) -> list[tuple[int, int]]:
    """The cell in which every token begins, ⌊(i+½)·h/H⌋ per axis."""
    (height, width), (h, w) = grid, clusters
    return [
        (math.floor((y + 0.5) * h / height + 1e-9), math.floor((x + 0.5) * w / width + 1e-9))
        for y in range(height)
        for x in range(width)
    ]


def near(first: tuple[int, int], cell: int, columns: int, reach: int) -> bool:
    return abs(first[0] - cell // columns) <= reach and abs(first[1] - cell % columns) <= reach


def dense(spread: TokenWeights | TileWeights, cells: int) -> Tensor:
    """Weights of clusters as a matrix (B, N, h·w)."""
    one_hot = torch.eye(cells).expand(len(spread.weights), -1, -1)
    return spread.apply(one_hot)


def cluster_loop(
    tokens: Tensor, grid: Grid, clusters: Grid, iterations: int, neighborhood: int, tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Equations 2 and 3 of one image's tokens (N, C), with the minus sign and the division.

    Returns:
        Centroids (h·w, C), masses (h·w,) and assignments (N, h·w).
    """
    z = tokens.double()
    as_map = z.T.reshape(1, -1, *grid)
    s = F.adaptive_avg_pool2d(as_map, clusters).flatten(2)[0].T.clone()
    firsts = first_cells(grid, clusters)
    weights = torch.zeros(len(z), len(s), dtype=torch.float64)
    for _ in range(iterations):
        weights.zero_()
        for p, first in enumerate(firsts):
            cells = [i for i in range(len(s)) if near(first, i, clusters[1], neighborhood // 2)]
            scores = torch.stack([-((z[p] - s[i]) ** 2).sum() / tau for i in cells])
            weights[p, cells] = scores.softmax(0)
        mass = weights.sum(0)
        for i in range(len(s)):
            s[i] = (weights[:, i, None] * z).sum(0) / mass[i]
    return s, weights.sum(0), weights


def softmax_weights_loop(z: Tensor, s: Tensor, tau: float, k: int) -> Tensor:
    """Equation 4 with the minus sign: softmax over each token's k nearest centres, (N, h·w)."""
    weights = torch.zeros(len(z), len(s), dtype=torch.float64)
    for p in range(len(z)):
        distance = ((z[p] - s) ** 2).sum(1)
        nearest = distance.argsort()[:k]
        weights[p, nearest] = (-distance[nearest] / tau).softmax(0)
    return weights


def linear_weights_loop(z: Tensor, s: Tensor, k: int, ridge: float) -> Tensor:
    """Weights of k nearest centres that sum to one and best rebuild each token (N, h·w).

    Solved as a constrained least-squares problem on the differences themselves, not on distances.
    """
    weights = torch.zeros(len(z), len(s), dtype=torch.float64)
    for p in range(len(z)):
        nearest = ((z[p] - s) ** 2).sum(1).argsort()[:k]
        difference = z[p] - s[nearest]
        gram = difference @ difference.T
        gram = gram + ridge * gram.diag().mean() * torch.eye(k, dtype=torch.float64)
        solution = torch.linalg.solve(gram, torch.ones(k, dtype=torch.float64))
        weights[p, nearest] = solution / solution.sum()
    return weights


def kriging_weights_loop(z: Tensor, s: Tensor, there: Tensor, nugget: float) -> Tensor:
    """Ordinary kriging of each token from the centres that are there, (N, h·w).

    Solved with the Lagrange multiplier as one more unknown, as textbooks write it.
    """
    weights = torch.zeros(len(z), len(s), dtype=torch.float64)
    points = s[there]
    unit = (points**2).sum(1).mean()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return 1 / (1 + ((a[:, None] - b) ** 2).sum(-1) / (2 * unit))

    count = len(points)
    bordered = torch.ones(count + 1, count + 1, dtype=torch.float64)
    bordered[:count, :count] = kernel(points, points) + nugget * torch.eye(count)
    bordered[count, count] = 0
    for p in range(len(z)):
        right = torch.cat([kernel(z[p : p + 1], points)[0], torch.ones(1, dtype=torch.float64)])
        weights[p, there] = torch.linalg.solve(bordered, right)[:count]
    return weights
