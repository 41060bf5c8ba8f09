"""EM of local clustering: one program for each tile of tokens, scores never leave it."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from expedite.geometry.tiling import Tiles
from expedite.operators.kernels import EMPTY_MASS, PRECISION, blocks_of, operation, power_of_two

# Tokens of a tile at a time, and cells at a time where centres move.
_TOKENS = 32
_CELLS = 16

_TABLES = "Tensor token, Tensor filled, Tensor cell, Tensor reachable"
_ARGUMENTS = f"Tensor points, Tensor weight, Tensor centers, Tensor tau, {_TABLES}"


def soft_step(points: Tensor, weight: Tensor, centers: Tensor, tau: Tensor, tiles: Tiles) -> Tensor:
    """Centres (B, h·w, D) after one step of soft EM, see `clustering.cluster`.

    Args:
        points: (B, N, D) float32.
        weight: (B, N, 1) how much each counts.
        centers: (B, h·w, D).
        tau: (B, 1, 1).
        tiles: Where they lie.
    """
    arguments = points, weight, centers, tau, *_tables(tiles)
    return _soft_step(*arguments, tiles.place, tiles.shown)


def nearest(
    points: Tensor, weight: Tensor, centers: Tensor, tau: Tensor, tiles: Tiles, tie: float
) -> Tensor:
    """The nearest centre within reach of each token, (B, N) int64, the first of equals.

    Arguments are those of `soft_step`, and by what share of themselves equal scores may differ.
    """
    return _nearest(points, weight, centers, tau, *_tables(tiles), tie)


def _tables(tiles: Tiles) -> tuple[Tensor, ...]:
    return tiles.token, tiles.filled, tiles.cell, tiles.reachable


@operation(
    f"soft_step({_ARGUMENTS}, Tensor place, Tensor shown) -> Tensor",
    lambda points, weight, centers, *others: torch.empty_like(centers),
)
def _soft_step(points: Tensor, weight: Tensor, centers: Tensor, *others: Tensor) -> Tensor:
    *tables, place, shown = others
    points, centers = points.contiguous(), centers.contiguous()
    sizes, blocks = _sizes(points, centers, *tables[1:4]), _blocks(points, tables[3])
    batch, (count, window) = points.shape[0], tables[3].shape
    sums = points.new_empty(batch, count, window, points.shape[2])
    mass = points.new_empty(batch, count, window)
    _assign[(count, batch)](
        points, weight.contiguous(), centers, *tables, sums, mass, *sizes, **blocks
    )
    moved = torch.empty_like(centers)
    _move[(blocks_of(centers.shape[1], _CELLS), batch)](
        sums, mass, centers, place, shown, moved,
        centers.shape[1], count * window, len(place), points.shape[2], EMPTY_MASS,
        CELLS=_CELLS, DEPTH=blocks["DEPTH"],
    )  # fmt: skip
    return moved


@operation(
    f"nearest({_ARGUMENTS}, float tie) -> Tensor",
    lambda points, *others: points.new_empty(points.shape[:2], dtype=torch.int64),
)
def _nearest(points: Tensor, weight: Tensor, centers: Tensor, *others: Any) -> Tensor:
    *tables, tie = others
    points, centers = points.contiguous(), centers.contiguous()
    sizes, blocks = _sizes(points, centers, *tables[1:4]), _blocks(points, tables[3])
    labels = points.new_empty(points.shape[:2], dtype=torch.int64)
    _choose[(len(tables[3]), points.shape[0])](
        points, weight.contiguous(), centers, *tables, labels, *sizes, tie, **blocks
    )
    return labels


def _sizes(
    points: Tensor, centers: Tensor, token: Tensor, filled: Tensor, cell: Tensor
) -> tuple[int, ...]:
    return points.shape[1], centers.shape[1], token.shape[1], cell.shape[1], points.shape[2]


def _blocks(points: Tensor, cell: Tensor) -> dict[str, Any]:
    window = power_of_two(cell.shape[1])
    return {
        "TOKENS": _TOKENS,
        "WINDOW": window,
        "DEPTH": power_of_two(points.shape[2]),
        "PRECISION": PRECISION,
        "num_warps": 4 if window <= 64 else 8,
    }


@triton.jit
def _window(
    centers, cell, cells, window, depth, WINDOW: tl.constexpr, DEPTH: tl.constexpr
):  # fmt: skip
    """The cells (m,) of the program's tile, their centres (m, D) and half squares (m,)."""
    place, channel = tl.arange(0, WINDOW), tl.arange(0, DEPTH)
    shown = tl.load(cell + tl.program_id(0) * window + place, mask=place < window, other=0)
    row = tl.program_id(1).to(tl.int64) * cells + shown
    inside = (place < window)[:, None] & (channel < depth)[None]
    found = tl.load(centers + row[:, None] * depth + channel[None], mask=inside, other=0.0)
    return shown, found, tl.sum(found * found, 1) / 2


@triton.jit
def _scores(
    points, token, reachable, start, found, half, scale, tokens, slots, window, depth,
    TOKENS: tl.constexpr, WINDOW: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of the tile's tokens from slot `start` on: their rows (n,), points (n, D), scores (n, m)."""
    slot, place = start + tl.arange(0, TOKENS), tl.arange(0, WINDOW)
    channel, tile = tl.arange(0, DEPTH), tl.program_id(0)
    there = slot < slots
    row = tl.program_id(1).to(tl.int64) * tokens
    row += tl.load(token + tile * slots + slot, mask=there, other=0)
    inside = there[:, None] & (channel < depth)[None]
    point = tl.load(points + row[:, None] * depth + channel[None], mask=inside, other=0.0)
    at = (tile * slots + slot)[:, None] * window + place[None]
    near = tl.load(reachable + at, mask=there[:, None] & (place < window)[None], other=0)
    score = (tl.dot(point, tl.trans(found), input_precision=PRECISION) - half[None]) * scale
    # Slots that are not there reach all, and count nothing.
    return row, point, tl.where((near != 0) | ~there[:, None], score, float("-inf"))


@triton.jit
def _counted(weight, filled, row, start, slots, TOKENS: tl.constexpr):
    """How much the tokens of the slots from `start` on count, (n,)."""
    slot = start + tl.arange(0, TOKENS)
    there = slot < slots
    full = tl.load(filled + tl.program_id(0) * slots + slot, mask=there, other=0) != 0
    return tl.load(weight + row, mask=full, other=0.0)


@triton.jit
def _assign(
    points, weight, centers, tau, token, filled, cell, reachable, sums, mass,
    tokens, cells, slots, window, depth,
    TOKENS: tl.constexpr, WINDOW: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """E-step of a tile, and what its tokens add to the sums and masses of its window."""
    place, channel = tl.arange(0, WINDOW), tl.arange(0, DEPTH)
    image, tile = tl.program_id(1).to(tl.int64), tl.program_id(0)
    scale = 2 / tl.load(tau + image)
    _, found, half = _window(centers, cell, cells, window, depth, WINDOW, DEPTH)
    total = tl.zeros((WINDOW, DEPTH), tl.float32)
    total_mass = tl.zeros((WINDOW,), tl.float32)
    for start in range(0, slots, TOKENS):
        row, point, score = _scores(
            points, token, reachable, start, found, half, scale, tokens, slots, window, depth,
            TOKENS, WINDOW, DEPTH, PRECISION,
        )  # fmt: skip
        share = tl.exp(score - tl.max(score, 1)[:, None])
        counted = _counted(weight, filled, row, start, slots, TOKENS)
        share *= (counted / tl.sum(share, 1))[:, None]
        total += tl.dot(tl.trans(share), point, input_precision=PRECISION)
        total_mass += tl.sum(share, 0)
    at = (image * tl.num_programs(0) + tile) * window + place
    inside = (place < window)[:, None] & (channel < depth)[None]
    tl.store(sums + at[:, None] * depth + channel[None], total, mask=inside)
    tl.store(mass + at, total_mass, mask=place < window)


@triton.jit
def _move(
    sums, mass, centers, windows, shown, moved, cells, rows, parts, depth, least,
    CELLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """M-step: add up what the windows that show a cell have of it."""
    image = tl.program_id(1).to(tl.int64)
    cell, channel = tl.program_id(0) * CELLS + tl.arange(0, CELLS), tl.arange(0, DEPTH)
    there = cell < cells
    total = tl.zeros((CELLS, DEPTH), tl.float32)
    total_mass = tl.zeros((CELLS,), tl.float32)
    for part in range(parts):
        is_shown = tl.load(shown + part * cells + cell, mask=there, other=0) != 0
        at = image * rows + tl.load(windows + part * cells + cell, mask=there, other=0)
        inside = is_shown[:, None] & (channel < depth)[None]
        total += tl.load(sums + at[:, None] * depth + channel[None], mask=inside, other=0.0)
        total_mass += tl.load(mass + at, mask=is_shown, other=0.0)
    at = (image * cells + cell)[:, None] * depth + channel[None]
    inside = there[:, None] & (channel < depth)[None]
    before = tl.load(centers + at, mask=inside, other=0.0)
    has_mass = (total_mass > least)[:, None]
    mean = total / tl.where(total_mass > least, total_mass, 1.0)[:, None]
    tl.store(moved + at, tl.where(has_mass, mean, before), mask=inside)


@triton.jit
def _choose(
    points, weight, centers, tau, token, filled, cell, reachable, labels,
    tokens, cells, slots, window, depth, tie,
    TOKENS: tl.constexpr, WINDOW: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The nearest centre of each token of a tile, the first of equals."""
    scale = 2 / tl.load(tau + tl.program_id(1))
    shown, found, half = _window(centers, cell, cells, window, depth, WINDOW, DEPTH)
    for start in range(0, slots, TOKENS):
        row, _, score = _scores(
            points, token, reachable, start, found, half, scale, tokens, slots, window, depth,
            TOKENS, WINDOW, DEPTH, PRECISION,
        )  # fmt: skip
        most = tl.max(score, 1)
        is_best = score >= (most - tie * (1 + tl.abs(most)))[:, None]
        best = tl.argmax(is_best.to(tl.int32), 1)
        label = tl.sum(tl.where(best[:, None] == tl.arange(0, WINDOW)[None], shown[None], 0), 1)
        slot = start + tl.arange(0, TOKENS)
        full = tl.load(filled + tl.program_id(0) * slots + slot, mask=slot < slots, other=0)
        tl.store(labels + row, label, mask=full != 0)
