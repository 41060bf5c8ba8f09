"""The layers, all without parameters, that a plan adds to a host."""

from collections.abc import Container
from functools import partial
from typing import Any

from torch import nn

from expedite.operators.clustering import TokenClustering
from expedite.operators.reconstruction import TokenReconstruction
from expedite.operators.relocation import SHARE
from expedite.operators.windows import WindowTokenClustering, WindowTokenReconstruction
from expedite.patching.host import Host
from expedite.plan import Plan, Span


def clusterings(host: Host, plan: Plan) -> dict[int, nn.Module]:
    """The layer of every span of a settled plan, by the index of its first block."""
    settings: dict[str, Any] = {
        "iterations": plan.iterations,
        "neighborhood": plan.neighborhood,
        "temperature": plan.temperature,
        "nearest": plan.nearest_cells,
        "projection": plan.projection,
        "basis": plan.basis,
        "hard": plan.hard,
        "sharpness": plan.sharpness,
        "length": plan.length,
    }
    ranges = plan.ranges(host.depth)
    moves = {first: _relocated(host, plan, end) for _, first, end in ranges}
    if host.window is None:
        # Not by the bound method, whose span Dynamo of PyTorch 2.7 takes for any other.
        return {
            first: TokenClustering(partial(Span.grid_for, span), **settings, relocated=moves[first])
            for span, first, _ in ranges
        }
    steps = plan.grids(host.depth, *host.windows)
    layer = partial(WindowTokenClustering, borders=plan.window_borders, padding=plan.window_padding)
    return {
        first: layer(*step, **settings, relocated=moves[first])
        for (_, first, _), step in zip(ranges, steps, strict=True)
    }


def reconstruction(host: Host, plan: Plan) -> TokenReconstruction | WindowTokenReconstruction:
    """The layer that brings the full grid back."""
    layer = TokenReconstruction if host.window is None else WindowTokenReconstruction
    return layer(plan.reconstruction, plan.weights, plan.k, bool(plan.delta))


def hands_over(host: Host, end: int, starts: Container[int]) -> bool:
    """Whether a span up to block `end` leaves its clusters to one that starts there.

    Within a stage, where there are stages.
    """
    return end in starts and host.stage_of(end) == host.stage_of(end - 1)


def _relocated(host: Host, plan: Plan, end: int) -> float:
    """The share of clusters that move in a span up to block `end`."""
    if plan.relocated is not None:
        return plan.relocated
    # A clustering of the clusters needs them in their cells.
    starts = {first for _, first, _ in plan.ranges(host.depth)}
    moves = plan.hard and _may_move(host, plan) and not hands_over(host, end, starts)
    return SHARE if moves else 0.0


def _may_move(host: Host, plan: Plan) -> bool:
    """Whether clusters may leave their cells without being asked to.

    Not where positions are read for regular cells, unless a host with windows says so. A Swin's
    are, but within small windows, and moving was measured to pay there, not in a SwinV2's
    (docs/method.md).
    """
    if host.window is not None:
        return host.moves and plan.window_borders
    return host.bias is None
