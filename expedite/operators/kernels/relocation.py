"""What relocation asks of clusters and tokens: the cheapest unions, and which tokens may leave."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from expedite.operators.kernels import EMPTY_MASS, blocks_of, operation, power_of_two
from expedite.operators.kernels.rows import own_rows

_CELLS = 16
_TOKENS = 128


@operation(
    "unions(Tensor centers, Tensor mass, Tensor second, Tensor beside, Tensor there) "
    "-> (Tensor, Tensor)",
    lambda centers, mass, second, beside, there: (
        mass.new_empty(mass.shape[0], len(second)),
        second.new_empty(mass.shape[0], len(second)),
    ),
)
def unions(
    centers: Tensor, mass: Tensor, second: Tensor, beside: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """What each cell's cheapest union costs, (B, E), and with which cell it is, (B, E).

    Args:
        centers: (B, h·w, D).
        mass: (B, h·w).
        second: (E,) the cells that may go.
        beside: (E, 4) the cells beside them.
        there: (E, 4) whether those are there.
    """
    batch, cells, depth = centers.shape
    count = len(second)
    cost = mass.new_empty(batch, count)
    into = second.new_empty(batch, count)
    _unite[(blocks_of(count, _CELLS), batch)](
        centers.contiguous(), mass.contiguous(), second, beside, there, cost, into,
        cells, count, depth, EMPTY_MASS, CELLS=_CELLS, DEPTH=power_of_two(depth),
    )  # fmt: skip
    return cost, into


@operation(
    "all_but_nearest(Tensor error, Tensor labels, int clusters, float tie) -> Tensor",
    lambda error, labels, clusters, tie: torch.empty_like(error),
)
def all_but_nearest(error: Tensor, labels: Tensor, clusters: int, tie: float) -> Tensor:
    """The errors (B, N), 0 for the token of least error in each cluster, the first of equals.

    Args:
        error: (B, N), 0 or more.
        labels: (B, N) int64.
        clusters: h·w.
        tie: By what share errors may differ and be equal.
    """
    error, labels = error.contiguous(), labels.contiguous()
    batch, tokens = error.shape
    # The bits of numbers from 0 on are in their order.
    least = torch.full((batch, clusters), 2**31 - 1, dtype=torch.int32, device=error.device)
    first = torch.full_like(least, tokens)
    grid, masked = (blocks_of(tokens, _TOKENS), batch), torch.empty_like(error)
    sizes = (tokens, clusters, 1 + tie)
    _find_least[grid](error, labels, least, tokens, clusters, TOKENS=_TOKENS)
    _find_first[grid](error, labels, least, first, *sizes, TOKENS=_TOKENS)
    _mask_first[grid](error, labels, first, masked, tokens, clusters, TOKENS=_TOKENS)
    return masked


@triton.jit
def _unite(
    centers, mass, second, beside, there, cost, into, cells, count, depth, least,
    CELLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    place, channel = tl.program_id(0) * CELLS + tl.arange(0, CELLS), tl.arange(0, DEPTH)
    wanted = place < count
    inside = wanted[:, None] & (channel < depth)[None]
    cell = tl.load(second + place, mask=wanted, other=0)
    own = tl.load(mass + image * cells + cell, mask=wanted, other=0.0)
    at = (image * cells + cell)[:, None] * depth + channel[None]
    center = tl.load(centers + at, mask=inside, other=0.0)
    best = tl.full((CELLS,), float("inf"), tl.float32)
    choice = tl.zeros((CELLS,), tl.int64)
    for side in range(4):
        neighbour = tl.load(beside + place * 4 + side, mask=wanted, other=0)
        others = tl.load(mass + image * cells + neighbour, mask=wanted, other=0.0)
        at = (image * cells + neighbour)[:, None] * depth + channel[None]
        gap = center - tl.load(centers + at, mask=inside, other=0.0)
        price = tl.sum(gap * gap, 1) * (own * others / tl.maximum(own + others, 1e-30))
        is_there = tl.load(there + place * 4 + side, mask=wanted, other=0) != 0
        # Several could go into one without tokens, each of them at no cost.
        possible = is_there & ((own <= least) | (others > least))
        better = possible & (price < best)
        best, choice = tl.where(better, price, best), tl.where(better, neighbour, choice)
    tl.store(cost + image * count + place, best, mask=wanted)
    tl.store(into + image * count + place, choice, mask=wanted)


@triton.jit
def _find_least(error, labels, least, tokens, clusters, TOKENS: tl.constexpr):
    _, there, at, cluster = own_rows(labels, tokens, clusters, TOKENS)
    value = tl.load(error + at, mask=there, other=0.0)
    tl.atomic_min(least + cluster, value.to(tl.int32, bitcast=True), mask=there, sem="relaxed")


@triton.jit
def _find_first(error, labels, least, first, tokens, clusters, margin, TOKENS: tl.constexpr):
    token, there, at, cluster = own_rows(labels, tokens, clusters, TOKENS)
    value = tl.load(error + at, mask=there, other=0.0)
    bound = tl.load(least + cluster, mask=there, other=0).to(tl.float32, bitcast=True) * margin
    tl.atomic_min(first + cluster, token, mask=there & (value <= bound), sem="relaxed")


@triton.jit
def _mask_first(error, labels, first, masked, tokens, clusters, TOKENS: tl.constexpr):
    token, there, at, cluster = own_rows(labels, tokens, clusters, TOKENS)
    value = tl.load(error + at, mask=there, other=0.0)
    stays = token == tl.load(first + cluster, mask=there, other=0)
    tl.store(masked + at, tl.where(stays, 0.0, value), mask=there)
