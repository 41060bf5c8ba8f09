"""Kriging: one program builds and inverts the system of a tile, others weigh its tokens."""

import triton
import triton.language as tl
from torch import Tensor

from expedite.geometry.tiling import Tiles
from expedite.operators.kernels import PRECISION, blocks_of, operation, power_of_two

# Unknowns that are eliminated at once, and tokens that are weighed at once.
_BLOCK = 32
_TOKENS = 32


def weigh(
    points: Tensor, centers: Tensor, there: Tensor, unit: Tensor, nugget: float, tiles: Tiles
) -> Tensor:
    """Weights (B, T, n, m) of `kriging.kriging_weights`.

    Args:
        points: (B, N, D) float32.
        centers: (B, h·w, D).
        there: (B, T, m, 1) float32, 1 where a place of a window shows a cluster, else 0.
        unit: (B, 1, 1) the clusters' mean square.
        nugget: What is added to the diagonal.
        tiles: Which clusters are weighed for which tokens.
    """
    return _weights(points, centers, there, unit, tiles.token, tiles.cell, nugget)


@operation(
    "kriging(Tensor points, Tensor centers, Tensor there, Tensor unit, Tensor token, Tensor cell, "
    "float nugget) -> Tensor",
    lambda points, centers, there, unit, token, cell, nugget: points.new_empty(
        points.shape[0], *token.shape, cell.shape[1]
    ),
)
def _weights(
    points: Tensor,
    centers: Tensor,
    there: Tensor,
    unit: Tensor,
    token: Tensor,
    cell: Tensor,
    nugget: float,
) -> Tensor:
    batch, tokens, depth = points.shape
    cells, (count, window), slots = centers.shape[1], cell.shape, token.shape[1]
    side, wide = blocks_of(window, _BLOCK) * _BLOCK, power_of_two(depth)
    inverse = points.new_empty(batch, count, side, side)
    ones = points.new_empty(batch, count, side)
    points, centers, there = points.contiguous(), centers.contiguous(), there.contiguous()
    _invert[(count, batch)](
        centers, cell, there, unit, inverse, ones, cells, window, side, depth, nugget,
        BLOCK=_BLOCK, DEPTH=wide, SIDE=power_of_two(side), PRECISION=PRECISION, num_warps=4,
    )  # fmt: skip
    weights = points.new_empty(batch, count, slots, window)
    _weigh[(blocks_of(slots, _TOKENS), count, batch)](
        points, centers, token, cell, there, unit, inverse, ones, weights,
        tokens, cells, slots, window, side, depth,
        TOKENS=_TOKENS, BLOCK=_BLOCK, DEPTH=wide, SIDE=power_of_two(side), PRECISION=PRECISION,
        num_warps=4,
    )  # fmt: skip
    return weights


@triton.jit
def _rows(values, row, there, depth, DEPTH: tl.constexpr):
    """Rows (n, D) of values (..., D), zero where they are not there."""
    channel = tl.arange(0, DEPTH)
    inside = there[:, None] & (channel < depth)[None]
    return tl.load(values + row[:, None] * depth + channel[None], mask=inside, other=0.0)


@triton.jit
def _likeness(one, other, unit, PRECISION: tl.constexpr):
    """The kernel u / (u + d²/2) between points (n, D) and (m, D), (n, m)."""
    apart = tl.sum(one * one, 1)[:, None] / 2 + tl.sum(other * other, 1)[None] / 2
    apart -= tl.dot(one, tl.trans(other), input_precision=PRECISION)
    return unit / (unit + tl.maximum(apart, 0.0))


@triton.jit
def _invert(
    centers, cell, there, unit, inverse, ones, cells, window, side, depth, nugget,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, SIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The inverse (side, side) of a tile's system, and its rows' sums over clusters that are."""
    image, tile = tl.program_id(1).to(tl.int64), tl.program_id(0)
    program = image * tl.num_programs(0) + tile
    system = inverse + program * side * side
    there += program * window
    _build(
        system, centers + image * cells * depth, cell + tile * window, there,
        tl.load(unit + image), window, side, depth, nugget, BLOCK, DEPTH, SIDE, PRECISION,
    )  # fmt: skip
    tl.debug_barrier()
    for pivot in range(0, side, BLOCK):
        _sweep(system, pivot, side, BLOCK, SIDE, PRECISION)
    place = tl.arange(0, SIDE)
    is_there = tl.load(there + place, mask=place < window, other=0.0)
    for start in range(0, side, BLOCK):
        row = start + tl.arange(0, BLOCK)
        total = tl.sum(_strip(system, start, side, BLOCK, SIDE) * is_there[None], 1)
        row_there = tl.load(there + row, mask=row < window, other=0.0)
        tl.store(ones + program * side + row, total * row_there)


@triton.jit
def _build(
    system, centers, cell, there, unit, window, side, depth, nugget,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, SIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The clusters' likeness, and rows of the identity for those that are not there."""
    column = tl.arange(0, SIDE)
    seen = column < window
    column_there = tl.load(there + column, mask=seen, other=0.0)
    other = _rows(centers, tl.load(cell + column, mask=seen, other=0), seen, depth, DEPTH)
    for start in range(0, side, BLOCK):
        row = start + tl.arange(0, BLOCK)
        row_there = tl.load(there + row, mask=row < window, other=0.0)
        shown = tl.load(cell + row, mask=row < window, other=0)
        one = _rows(centers, shown, row < window, depth, DEPTH)
        value = _likeness(one, other, unit, PRECISION) * row_there[:, None] * column_there[None]
        added = tl.where(row_there > 0, nugget, 1.0)[:, None]
        value += tl.where(row[:, None] == column[None], added, 0.0)
        at = system + row[:, None] * side + column[None]
        tl.store(at, value, mask=(column < side)[None])


@triton.jit
def _strip(system, start, side, BLOCK: tl.constexpr, SIDE: tl.constexpr):
    """Rows (b, side) of a system from `start` on."""
    row, column = start + tl.arange(0, BLOCK), tl.arange(0, SIDE)
    at = system + row[:, None] * side + column[None]
    return tl.load(at, mask=(column < side)[None], other=0.0)


@triton.jit
def _sweep(
    system, pivot, side, BLOCK: tl.constexpr, SIDE: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Gauss and Jordan's step in place, for a block of unknowns.

    By R = L⁻¹ of the block's Cholesky factor L, never by its inverse RᵀR: see `kriging.invert`.
    """
    block, column = tl.arange(0, BLOCK), tl.arange(0, SIDE)
    inside = (column < side)[None]
    square = block[:, None] * side + block[None]
    root = _inverse_root(tl.load(system + pivot * side + pivot + square), BLOCK)
    # Where the unknowns' own columns are, the identity stands in for them.
    own = (column[None] >= pivot) & (column[None] < pivot + BLOCK)
    unit = (column[None] == pivot + block[:, None]).to(tl.float32)
    strip = tl.where(own, unit, _strip(system, pivot, side, BLOCK, SIDE))
    strip = tl.dot(root, strip, input_precision=PRECISION)
    for start in range(0, side, BLOCK):
        if start != pivot:
            factor = tl.load(system + start * side + pivot + square)
            factor = tl.dot(factor, tl.trans(root), input_precision=PRECISION)
            before = tl.where(own, 0.0, _strip(system, start, side, BLOCK, SIDE))
            tl.debug_barrier()
            after = before - tl.dot(factor, strip, input_precision=PRECISION)
            at = system + (start + block)[:, None] * side + column[None]
            tl.store(at, after, mask=inside)
    strip = tl.dot(tl.trans(root), strip, input_precision=PRECISION)
    tl.store(system + (pivot + block)[:, None] * side + column[None], strip, mask=inside)
    tl.debug_barrier()


@triton.jit
def _inverse_root(matrix, BLOCK: tl.constexpr):
    """L⁻¹ of the Cholesky factor L of a matrix (b, b), in registers, one unknown a step."""
    place = tl.arange(0, BLOCK)
    root = (place[:, None] == place[None]).to(tl.float32)
    for step in range(BLOCK):
        here = (place == step)[:, None]
        row = tl.sum(tl.where(here, matrix, 0.0), 0)
        scale = tl.rsqrt(tl.sum(tl.where(place == step, row, 0.0), 0))
        column = tl.sum(tl.where(place[None] == step, matrix, 0.0), 1)
        below = tl.where(place > step, column * scale, 0.0)[:, None]
        done = (tl.sum(tl.where(here, root, 0.0), 0) * scale)[None]
        matrix -= below * (row * scale)[None]
        root = tl.where(here, done, root - below * done)
    return root


@triton.jit
def _weigh(
    points, centers, token, cell, there, unit, inverse, ones, weights,
    tokens, cells, slots, window, side, depth,
    TOKENS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, SIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights (n, m) of some tokens of a tile."""
    image, tile = tl.program_id(2).to(tl.int64), tl.program_id(1)
    program = image * tl.num_programs(1) + tile
    slot = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    row = tl.load(token + tile * slots + slot, mask=slot < slots, other=0)
    point = _rows(points + image * tokens * depth, row, slot < slots, depth, DEPTH)
    scale = tl.load(unit + image)
    column = tl.arange(0, SIDE)
    free = tl.zeros((TOKENS, SIDE), tl.float32)
    reached = tl.zeros((TOKENS,), tl.float32)
    total = 0.0
    for j in range(0, side, BLOCK):
        place = j + tl.arange(0, BLOCK)
        shown = tl.load(cell + tile * window + place, mask=place < window, other=0)
        center = _rows(centers + image * cells * depth, shown, place < window, depth, DEPTH)
        is_there = tl.load(there + program * window + place, mask=place < window, other=0.0)
        near = _likeness(point, center, scale, PRECISION) * is_there[None]
        one = tl.load(ones + program * side + place)
        reached += tl.sum(near * one[None], 1)
        total += tl.sum(one, 0)
        part = _strip(inverse + program * side * side, j, side, BLOCK, SIDE)
        free += tl.dot(near, part, input_precision=PRECISION)
    inside = column < window
    is_there = tl.load(there + program * window + column, mask=inside, other=0.0)
    one = tl.load(ones + program * side + column, mask=inside, other=0.0)
    weight = free * is_there[None] + ((1 - reached) / tl.maximum(total, 1e-30))[:, None] * one[None]
    at = (program * slots + slot)[:, None] * window + column[None]
    tl.store(weights + at, weight, mask=(slot < slots)[:, None] & inside[None])
