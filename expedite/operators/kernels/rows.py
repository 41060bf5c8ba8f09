"""Rows of tokens and of clusters: sums of some, and weighted sums of others."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from expedite.geometry.tiling import Tiles
from expedite.operators.kernels import (
    PRECISION,
    blocks_of,
    operation,
    power_of_two,
    with_whole_rows,
)

_CHANNELS = 64
_TOKENS = 32
_CELLS = 32


@operation(
    "fold(Tensor features, Tensor factors, int width) -> Tensor",
    lambda features, factors, width: features.new_empty(
        *features.shape[:2], width, dtype=torch.float32
    ),
)
def fold(features: Tensor, factors: Tensor, width: int) -> Tensor:
    """Sums of every `width`-th channel times its factor, see `clustering.project`.

    Args:
        features: (B, N, C) of any dtype.
        factors: (C,) or (B, 1, C) float32.
        width: How many sums.

    Returns:
        (B, N, width) float32.
    """
    features = with_whole_rows(features)
    batch, tokens, channels = features.shape
    sums = torch.empty(batch, tokens, width, device=features.device)
    _fold[(blocks_of(tokens, _TOKENS), batch)](
        features, factors.expand(batch, 1, -1).contiguous(), sums,
        *features.stride()[:2], tokens, channels, width,
        TOKENS=_TOKENS, WIDTH=power_of_two(width),
    )  # fmt: skip
    return sums


@operation(
    "add_rows(Tensor values, Tensor labels, Tensor share, int clusters) -> Tensor",
    lambda values, labels, share, clusters: share.new_empty(
        values.shape[0], clusters, values.shape[2]
    ),
)
def add_rows(values: Tensor, labels: Tensor, share: Tensor, clusters: int) -> Tensor:
    """Sums (B, h·w, C) float32 of the tokens of each cluster, times their shares.

    Args:
        values: (B, N, C) of any dtype.
        labels: (B, N) int64.
        share: (B, N, 1) float32.
        clusters: h·w.
    """
    values = with_whole_rows(values)
    batch, tokens, channels = values.shape
    sums = torch.zeros(batch, clusters, channels, device=values.device)
    grid = (blocks_of(tokens, _TOKENS), blocks_of(channels, _CHANNELS), batch)
    _add_rows[grid](
        values, labels.contiguous(), share.contiguous(), sums, *values.stride()[:2],
        tokens, channels, clusters, TOKENS=_TOKENS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return sums


@operation(
    "shares(Tensor labels, Tensor weight, Tensor mass, float least) -> Tensor",
    lambda labels, weight, mass, least: torch.empty_like(weight),
)
def shares(labels: Tensor, weight: Tensor, mass: Tensor, least: float) -> Tensor:
    """Of the mass of its cluster that each token has, (B, N, 1), 0 where there is at most `least`.

    Args:
        labels: (B, N) int64.
        weight: (B, N, 1) float32, how much each token counts.
        mass: (B, h·w) float32.
        least: A mass that counts as none.
    """
    labels, weight, mass = labels.contiguous(), weight.contiguous(), mass.contiguous()
    batch, tokens = labels.shape
    share = torch.empty_like(weight)
    _share[(blocks_of(tokens, 4 * _TOKENS), batch)](
        labels, weight, mass, share, tokens, mass.shape[1], least, TOKENS=4 * _TOKENS
    )
    return share


@operation(
    "half_distances(Tensor points, Tensor centers, Tensor labels) -> Tensor",
    lambda points, centers, labels: points.new_empty(*points.shape[:2], 1),
)
def half_distances(points: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """½‖z - s‖² of points (B, N, D) and one centre each, (B, N, 1).

    Args:
        points: (B, N, D) float32, D at most `LARGEST_DEPTH`.
        centers: (B, h·w, D).
        labels: (B, N) int64, which centre.
    """
    points, centers, labels = points.contiguous(), centers.contiguous(), labels.contiguous()
    batch, tokens, depth = points.shape
    halves = points.new_empty(batch, tokens, 1)
    _measure[(blocks_of(tokens, _TOKENS), batch)](
        points, centers, labels, halves, tokens, centers.shape[1], depth,
        TOKENS=_TOKENS, DEPTH=power_of_two(depth),
    )  # fmt: skip
    return halves


def spread(
    weights: Tensor,
    tiles: Tiles,
    own: Tensor,
    exact: Tensor,
    values: Tensor,
    before: Tensor | None = None,
    onto: Tensor | None = None,
) -> Tensor:
    """What `kriging.TileWeights` makes of values of clusters.

    Args:
        weights: (B, T, n, m).
        tiles: Where they are.
        own: (B, N) int64, the cluster of each token.
        exact: (B, N, 1) bool, whether a token takes that cluster's value.
        values: (B, h·w, C) of any dtype.
        before: (B, h·w, C) to take off the values, None for nothing.
        onto: (B, N, C) to add, None for nothing.

    Returns:
        (B, N, C), in the dtype of the values where there is something to add, else float32.
    """
    tables = tiles.token, tiles.filled, tiles.cell
    return _spread_rows(weights, *tables, own, exact, values, before, onto)


def _empty_spread(own: Tensor, values: Tensor, onto: Tensor | None) -> Tensor:
    dtype = torch.float32 if onto is None else values.dtype
    return values.new_empty(*own.shape, values.shape[2], dtype=dtype)


@operation(
    "spread(Tensor weights, Tensor token, Tensor filled, Tensor cell, Tensor own, Tensor exact, "
    "Tensor values, Tensor? before, Tensor? onto) -> Tensor",
    lambda weights, token, filled, cell, own, exact, values, before, onto: _empty_spread(
        own, values, onto
    ),
)
def _spread_rows(
    weights: Tensor,
    token: Tensor,
    filled: Tensor,
    cell: Tensor,
    own: Tensor,
    exact: Tensor,
    values: Tensor,
    before: Tensor | None,
    onto: Tensor | None,
) -> Tensor:
    out = _empty_spread(own, values, onto)
    values = values.contiguous()
    before = values if before is None else before.contiguous()
    base = out if onto is None else with_whole_rows(onto)
    batch, clusters, channels = values.shape
    (count, slots), window = token.shape, cell.shape[1]
    step, wide = min(64, power_of_two(slots)), blocks_of(channels, _CHANNELS)
    _spread[(wide * blocks_of(slots, step), count, batch)](
        weights.contiguous(), token, filled, cell, own.contiguous(), exact.contiguous(),
        values, before, base, out,
        *base.stride()[:2], own.shape[1], clusters, slots, window, channels, wide,
        HAS_BEFORE=before is not values, ADDS=onto is not None,
        # Half-precision values are multiplied as such and summed in float32; not in Triton's
        # interpreter, on a CPU, which has no products of bfloat16.
        HALF=values.dtype != torch.float32 and values.is_cuda, PRECISION=PRECISION,
        TOKENS=step, CELLS=_CELLS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return out


@triton.jit
def _fold(
    features, factors, sums, image_stride, token_stride, tokens, channels, width,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    token, place = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, WIDTH)
    total = tl.zeros((TOKENS, WIDTH), tl.float32)
    for start in range(0, channels, width):
        there = (place < width) & (start + place < channels)
        at = (token * token_stride)[:, None] + (start + place)[None]
        inside = (token < tokens)[:, None] & there[None]
        part = tl.load(features + image * image_stride + at, mask=inside, other=0.0)
        factor = tl.load(factors + image * channels + start + place, mask=there, other=0.0)
        total += part.to(tl.float32) * factor[None]
    at = (image * tokens + token)[:, None] * width + place[None]
    tl.store(sums + at, total, mask=(token < tokens)[:, None] & (place < width)[None])


@triton.jit
def _add_rows(
    values, labels, share, sums, image_stride, token_stride, tokens, channels, clusters,
    TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(2).to(tl.int64)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (token < tokens)[:, None] & (channel < channels)[None]
    at = (token * token_stride)[:, None] + channel[None]
    value = tl.load(values + image * image_stride + at, mask=inside, other=0.0).to(tl.float32)
    label = tl.load(labels + image * tokens + token, mask=token < tokens, other=0)
    part = tl.load(share + image * tokens + token, mask=token < tokens, other=0.0)
    to = (image * clusters + label)[:, None] * channels + channel[None]
    tl.atomic_add(sums + to, value * part[:, None], mask=inside, sem="relaxed")


@triton.jit
def own_rows(labels, tokens, clusters, TOKENS: tl.constexpr):
    """The program's tokens (n,), whether they are there, their rows and those of their clusters."""
    image = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    there, at = token < tokens, image * tokens + token
    return token, there, at, image * clusters + tl.load(labels + at, mask=there, other=0)


@triton.jit
def _share(labels, weight, mass, share, tokens, clusters, least, TOKENS: tl.constexpr):
    _, there, at, cluster = own_rows(labels, tokens, clusters, TOKENS)
    whole = tl.load(mass + cluster, mask=there, other=0.0)
    part = tl.load(weight + at, mask=there, other=0.0) / tl.where(whole > least, whole, 1.0)
    tl.store(share + at, tl.where(whole > least, part, 0.0), mask=there)


@triton.jit
def _measure(
    points, centers, labels, halves, tokens, clusters, depth,
    TOKENS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    _, there, at, cluster = own_rows(labels, tokens, clusters, TOKENS)
    channel = tl.arange(0, DEPTH)
    inside = there[:, None] & (channel < depth)[None]
    point = tl.load(points + at[:, None] * depth + channel[None], mask=inside, other=0.0)
    point -= tl.load(centers + cluster[:, None] * depth + channel[None], mask=inside, other=0.0)
    tl.store(halves + at, tl.sum(point * point, 1) / 2, mask=there)


@triton.jit
def _spread(
    weights, token, filled, cell, own, exact, values, before, base, out,
    image_stride, token_stride, tokens, clusters, slots, window, channels, wide,
    HAS_BEFORE: tl.constexpr, ADDS: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr,
    TOKENS: tl.constexpr, CELLS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image, tile = tl.program_id(2).to(tl.int64), tl.program_id(1)
    slot = tl.program_id(0) // wide * TOKENS + tl.arange(0, TOKENS)
    channel = tl.program_id(0) % wide * CHANNELS + tl.arange(0, CHANNELS)
    there, wanted = slot < slots, channel < channels
    at = (image * tl.num_programs(1) + tile) * slots + slot
    total = tl.zeros((TOKENS, CHANNELS), tl.float32)
    for start in range(0, window, CELLS):
        place = start + tl.arange(0, CELLS)
        seen = place < window
        inside = there[:, None] & seen[None]
        weight = tl.load(weights + at[:, None] * window + place[None], mask=inside, other=0.0)
        row = image * clusters + tl.load(cell + tile * window + place, mask=seen, other=0)
        value = _changes(values, before, row, seen, channel, channels, HAS_BEFORE)
        if HALF:
            weight = weight.to(values.dtype.element_ty)
            value = value.to(values.dtype.element_ty)
        total = tl.dot(weight, value, total, input_precision=PRECISION)
    full = tl.load(filled + tile * slots + slot, mask=there, other=0) != 0
    row = tl.load(token + tile * slots + slot, mask=full, other=0)
    taken = tl.load(exact + image * tokens + row, mask=full, other=0) != 0
    at = image * clusters + tl.load(own + image * tokens + row, mask=taken, other=0)
    itself = _changes(values, before, at, taken, channel, channels, HAS_BEFORE)
    total = tl.where(taken[:, None], itself, total)
    inside = full[:, None] & wanted[None]
    if ADDS:
        at = (row * token_stride)[:, None] + channel[None]
        total += tl.load(base + image * image_stride + at, mask=inside, other=0.0).to(tl.float32)
    at = (image * tokens + row)[:, None] * channels + channel[None]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _changes(values, before, row, there, channel, channels, HAS_BEFORE: tl.constexpr):
    """Some channels of rows of values, (n, c) float32, less what they were before."""
    at = row[:, None] * channels + channel[None]
    inside = there[:, None] & (channel < channels)[None]
    value = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BEFORE:
        value -= tl.load(before + at, mask=inside, other=0.0).to(tl.float32)
    return value
