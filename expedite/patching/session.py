"""What happens to tokens where spans begin and end.

The hooks that bring tokens here are in `hooks`. A call's state is a `Frame` that opens with the
call and closes with it, exceptions included.
"""

from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.operators.clustering import Clustering, TokenClustering, pool
from expedite.operators.reconstruction import TokenReconstruction
from expedite.operators.relocation import SHARE
from expedite.operators.windows import (
    WindowClustering,
    WindowTokenClustering,
    WindowTokenReconstruction,
    as_map,
    pool_windows,
)
from expedite.patching.bias import cluster_bias
from expedite.patching.frame import Frame, Level, Store
from expedite.patching.host import Cells, Host
from expedite.patching.rotary import grid_positions
from expedite.plan import Plan, Span

# What a cluster without any token counts in attention: next to nothing, with a finite logarithm.
_LEAST_MASS = 1e-30


@runtime_checkable
class BringsSession(Protocol):
    """A plan whose operators are its own."""

    def session(self, host: Host) -> "Session": ...


class Session:
    """A host, its plan and the operators: what all hooks of one patched host share."""

    def __init__(self, host: Host, plan: Plan) -> None:
        self.host = host
        self.plan = plan
        self.settled = plan.settled(in_windows=host.window is not None)
        self.store = Store()
        ranges = plan.ranges(host.depth)
        self.clusterings = self.make_clusterings()
        self.exits = {
            end - 1 for _, _, end in ranges if not self._hands_over(end, self.clusterings)
        }
        self.reconstruction = self.make_reconstruction()

    def make_clusterings(self) -> dict[int, nn.Module]:
        """The layer of every span by the index of its first block."""
        plan, depth = self.settled, self.host.depth
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
        ranges = plan.ranges(depth)
        if self.host.window is None:
            # Not by the bound method, whose span Dynamo of PyTorch 2.7 takes for any other.
            return {
                first: TokenClustering(
                    partial(Span.grid_for, span), **settings, relocated=self._relocated(end)
                )
                for span, first, end in ranges
            }
        steps = zip(ranges, plan.grids(depth, *self.host.windows), strict=True)
        layer = partial(WindowTokenClustering, borders=plan.window_borders)
        return {
            first: layer(*step, **settings, relocated=self._relocated(end))
            for (_, first, end), step in steps
        }

    def make_reconstruction(self) -> TokenReconstruction | WindowTokenReconstruction:
        """The layer that brings the full grid back."""
        plan = self.plan
        layer = TokenReconstruction if self.host.window is None else WindowTokenReconstruction
        return layer(plan.reconstruction, plan.weights, plan.k, bool(plan.delta))

    def measured(self, frame: Frame, index: int, block: nn.Module, body: Tensor) -> Any:
        """In what clustering is to measure distances between tokens; None for the tokens."""
        return self.host.first_norm(block, body) if self.settled.space == "norm" else None

    def add_hooks(self) -> None:
        """Put hooks in place beyond those of every session: none, unless a plan brings some."""

    @property
    def operators(self) -> list[nn.Module]:
        """The layers, all without parameters, that the plan adds to the model."""
        return [*self.clusterings.values(), self.reconstruction]

    @property
    def frame(self) -> Frame | None:
        """The innermost open frame of this thread, once its grid is known."""
        frames = self.store.frames
        return frames[-1] if frames and frames[-1].grid is not None else None

    def open(self, frame: Frame) -> None:
        """Begin a call; the backbone's call inside that of its model shares the model's frame."""
        frames = self.store.frames
        shared = len(frames) > 0 and frames[-1].grid is None
        frames.append(frames[-1] if shared else frame)

    def close(self) -> None:
        self.store.frames.pop()

    def check_end(self, frame: Frame) -> None:
        """Refuse to return clusters where the full grid is due."""
        goes_on = any(other is frame for other in self.store.frames)
        if goes_on or frame.keeps_every_token:
            return
        if not self._stays_clustered(frame, len(self.host.blocks) - 1):
            raise ExpediteError(
                f"a call of a {self.host.family} ended before the block after which the full grid "
                "returns; blocks changed after it was patched, so patch it again"
            )

    def enter(self, frame: Frame, index: int, block: nn.Module, tokens: Tensor) -> Tensor:
        """What block `index` is to run on, given what reached it: (B, prefix + N, C) or a map."""
        if frame.stream is not None:
            tokens = self._resume(frame, index, tokens)
        queries = self.host.queries
        if frame.levels and queries is not None and index == queries.before:
            frame.mask = self._mask(frame, tokens, *self.host.beside(index))
        if index not in self.clusterings:
            return tokens
        if index == 0 and frame.reads.first:
            raise ExpediteError(
                f"alpha=0 was asked of a {self.host.family}, and this call reads what enters its "
                "first block, which would be clusters; alpha=1 works"
            )
        beside = self.host.beside(index)
        tokens = _on_grid(tokens, *beside, lambda body: self._cluster(frame, index, block, body))
        if self.host.window is None:
            frame.mask = self._with_shared_bias(frame, self._mask(frame, tokens, *beside))
        else:
            frame.cells = self._cells(frame, index)
        frame.positions = None
        return tokens

    def leave(self, frame: Frame, index: int, tokens: Tensor, is_read: bool = False) -> Tensor:
        """What is shown of block `index`'s output, (B, prefix + N or h·w, C).

        `is_read` says that somebody reads it of whom the host does not know.
        """
        is_last = index == len(self.host.blocks) - 1
        stays = is_last and not is_read and self._stays_clustered(frame, index)
        if not frame.levels or stays:
            return tokens
        if index in self.exits:
            restored = self.restore(frame, tokens, *self.host.beside(index))
            # The head's blocks average over the clusters again, unless their delta is not wanted.
            goes_on = is_last and frame.with_head and self._clusters_head_blocks and self.plan.delta
            if not goes_on:
                frame.forget()
            return restored
        if is_read or index in frame.reads.taps or self.host.adds_between:
            frame.stream = tokens
            frame.shown = self.restore(frame, tokens, *self.host.beside(index))
            return frame.shown
        return tokens

    def _resume(self, frame: Frame, index: int, tokens: Tensor) -> Tensor:
        """The cluster tokens set aside, with what joined or was added while `tokens` was shown."""
        assert frame.stream is not None and frame.shown is not None
        stream, shown, queries = frame.stream, frame.shown, self.host.queries
        frame.stream = frame.shown = None
        if queries is not None and index == queries.before:
            return torch.cat([tokens[:, : queries.count], stream], 1)
        if self.host.adds_between:
            added, beside = tokens - shown, self.host.beside(index)
            return stream + _on_grid(added, *beside, lambda body: self._mean(frame, body))
        return stream

    def query_mask(self, frame: Frame, index: int, given: Tensor) -> Tensor:
        """The mask among clusters in place of one that says to which tokens queries attend.

        Args:
            frame: The call's.
            index: Of the block.
            given: (B, heads, n, n) over the full grid, added to scores, the same for all heads.

        Returns:
            (B, 1, n, n) for n tokens of which the grid's are clusters: each counts as the share of
            its tokens to which a query may attend.
        """
        assert self.host.queries is not None
        before, behind = self.host.beside(index)
        rows = given[:, 0, : self.host.queries.count].float()  # (B, queries, n)
        weights = (rows - rows.amax(-1, keepdim=True)).exp().mT
        weights = _on_grid(weights, before, behind, lambda body: self._mean(frame, body))
        masked = weights.clamp_min(_LEAST_MASS).log().mT.to(given.dtype)
        mask = F.pad(masked, (0, 0, 0, masked.shape[-1] - masked.shape[1]))[:, None]
        return mask if frame.mask is None else mask + frame.mask

    def take_stream(self, frame: Frame, device: torch.device) -> tuple[Tensor, Tensor]:
        """The cluster tokens set aside, for a module that hands them on to the next block.

        With where they stand: the means of their tokens' places, (B, h·w, 2) across and down.
        """
        assert frame.stream is not None and frame.grid is not None
        tokens, frame.stream, frame.shown = frame.stream, None, None
        places = grid_positions(frame.grid, device).expand(tokens.shape[0], -1, -1)
        rows, columns = self._mean(frame, places).unbind(-1)
        height, width = frame.grid
        return tokens, torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], -1)

    def add_to_stream(self, frame: Frame, added: Tensor) -> None:
        """Add to the cluster tokens set aside the means of what was added to their tokens."""
        assert frame.stream is not None
        prefix = self.host.prefix_tokens
        mean = _on_grid(added, prefix, 0, lambda body: self._mean(frame, body))
        frame.stream = frame.stream + mean

    def _mean(self, frame: Frame, body: Tensor) -> Tensor:
        """Means (B, h·w, C) over the clusters in force of what tokens (B, N, C) have."""
        for level in frame.levels:
            if isinstance(level.record, Clustering):
                body = pool(body, level.record)
            else:
                as_a_map = as_map(body, level.record.grid)
                body = pool_windows(as_a_map, level.record).flatten(1, 2)
        return body

    def enter_head(self, frame: Frame, tokens: Tensor, queries: int) -> Tensor:
        """Average the tokens of the head's blocks, (B, N + queries, C), over the clusters."""
        if self.plan.delta:
            tokens = _on_grid(tokens, 0, queries, lambda body: _pool_levels(frame, body))
        frame.mask = self._mask(frame, tokens, 0, queries)
        return tokens

    def leave_head(self, frame: Frame, tokens: Tensor, queries: int) -> Tensor:
        """Bring the full grid back at the head's end."""
        restored = self.restore(frame, tokens, suffix=queries)
        frame.forget()
        return restored

    def bias(self, frame: Frame, maker: nn.Module) -> Tensor:
        """The clusters' relative position bias, (1, heads, 1 + h·w, 1 + h·w)."""
        assert self.host.bias is not None and frame.grid is not None
        table = self.host.bias.table(maker, frame.grid)
        resized = self.plan.position_tables == "resized"
        return cluster_bias(table, frame.grid, frame.levels[-1].record.clusters, resized)

    def average(self, frame: Frame, tokens: Tensor) -> Tensor:
        """One token, the mean that the clusters' masses weigh, in place of all but the prefix."""
        mass = frame.levels[-1].record.mass
        share = (mass / mass.sum(1, keepdim=True))[:, None]  # (B, 1, h·w)
        prefix = self.host.prefix_tokens
        return _on_grid(tokens, prefix, 0, lambda body: (share @ body.float()).to(body.dtype))

    def restore(self, frame: Frame, tokens: Tensor, prefix: int = 0, suffix: int = 0) -> Tensor:
        """The full grid, with what stands before and behind the cluster tokens left alone."""
        return _on_grid(tokens, prefix, suffix, lambda body: self._restore_levels(frame, body))

    def _restore_levels(self, frame: Frame, body: Tensor) -> Tensor:
        is_flat = self._is_flat_map(body)
        if is_flat:
            body = as_map(body, frame.levels[-1].record.clusters)
        for level in reversed(frame.levels):
            if level.weights is None and not level.record.is_identity:
                level.weights = self.reconstruction.weigh(level.record)
            body = self.reconstruction(body, level.record, level.weights)
        return body.flatten(1, 2) if is_flat else body

    def _is_flat_map(self, body: Tensor) -> bool:
        """Whether tokens that windows are to be cut from came as (B, H·W, C)."""
        return self.host.window is not None and body.dim() == 3

    def _cluster(self, frame: Frame, index: int, block: nn.Module, body: Tensor) -> Tensor:
        last = frame.levels[-1].record if frame.levels else None
        assert frame.grid is not None  # `frame` hands out frames with a grid alone
        stage = self.host.stage_of(index)
        grid = last.clusters if last else self.host.grids(frame.grid)[stage]
        if (count := prod(body.shape[1:-1])) != grid[0] * grid[1]:
            raise ExpediteError(
                f"block {index} of the {self.host.family} got {count} tokens on a grid of "
                f"{grid[0]}×{grid[1]}; clustering needs them all, so patch dropout must be off"
            )
        if not last and self.host.stages:
            _check_size(self.host, index, grid)
        features = self.measured(frame, index, block, body)
        mass = last.mass if last else None
        if is_flat := self._is_flat_map(body):
            body = as_map(body, grid)
            features = None if features is None else as_map(features, grid)
        centroids: Tensor
        centroids, record = self.clusterings[index](body, grid, features, mass)
        frame.levels.append(Level(record))
        return centroids.flatten(1, 2) if is_flat else centroids

    def _mask(self, frame: Frame, tokens: Tensor, prefix: int, suffix: int) -> Tensor | None:
        """What is added to attention scores: the log of each key's mass, (B, 1, 1, keys)."""
        log_mass = self._log_mass(frame)
        if log_mass is None or frame.keeps_every_token:
            return None
        return F.pad(log_mass, (prefix, suffix))[:, None, None].to(tokens.dtype)

    def _with_shared_bias(self, frame: Frame, mask: Tensor | None) -> Tensor | None:
        shared = self.host.bias.shared if self.host.bias else None
        if shared is None or frame.keeps_every_token:
            return mask
        bias = self.bias(frame, shared)
        return bias if mask is None else bias + mask  # (B, heads, keys, keys)

    def _log_mass(self, frame: Frame) -> Tensor | None:
        if not self.plan.log_mass:
            return None
        return frame.levels[-1].record.mass.clamp_min(_LEAST_MASS).log()

    def _cells(self, frame: Frame, index: int) -> Cells:
        record, stage = frame.levels[-1].record, self.host.stage_of(index)
        assert isinstance(record, WindowClustering) and frame.grid is not None
        grid, window = self.host.grids(frame.grid)[stage], self.host.windows[stage]
        return Cells(
            grid,
            window,
            record.clusters,
            record.cells,
            self.plan.window_borders,
            self._log_mass(frame),
            self.plan.position_tables == "resized",
        )

    def _relocated(self, end: int) -> float:
        """The share of clusters that move in a span up to block `end`."""
        plan = self.plan
        if plan.relocated is not None:
            return plan.relocated
        # A clustering of the clusters needs them in their cells.
        starts = {first for _, first, _ in plan.ranges(self.host.depth)}
        moves = plan.hard and self._may_move and not self._hands_over(end, starts)
        return SHARE if moves else 0.0

    def _hands_over(self, end: int, starts: Container[int]) -> bool:
        """Whether a span up to block `end` leaves its clusters to one that starts there.

        Within a stage, where there are stages.
        """
        return end in starts and self.host.stage_of(end) == self.host.stage_of(end - 1)

    @property
    def _may_move(self) -> bool:
        """Whether clusters may leave their cells without being asked to.

        Not where positions are read for regular cells. A Swin's are, but within small windows, and
        moving was measured to pay there, not in a SwinV2's (docs/method.md).
        """
        host = self.host
        if host.stages:
            return host.moves and self.plan.window_borders
        return host.bias is None and host.window is None

    def _stays_clustered(self, frame: Frame, index: int) -> bool:
        """Whether nobody reads the full grid of the last block's output."""
        if index in frame.reads.taps:
            return False
        if not frame.with_head:
            return not frame.reads.last
        plain_head = self.plan.reconstruct_at == "head" and not self.plan.delta
        return plain_head or self.host.readout(self.host.model) != "tokens"

    @property
    def _clusters_head_blocks(self) -> bool:
        head = self.host.head
        return self.plan.reconstruct_at == "head" and head is not None and bool(head.blocks)


def _check_size(host: Host, index: int, grid: tuple[int, int]) -> None:
    window = host.windows[host.stage_of(index)]
    if grid[0] < window[0] or grid[1] < window[1]:
        raise ExpediteError(
            f"alpha={index} was asked of a {host.family} whose map there is {grid[0]}×{grid[1]}, "
            f"smaller than a window of {window[0]}×{window[1]}; a larger image or an earlier stage "
            "works"
        )


def _pool_levels(frame: Frame, body: Tensor) -> Tensor:
    """Average over the clusters in force, and let their records remember these tokens instead."""
    for level, record in zip(frame.levels, frame.records, strict=True):
        centroids = pool(body, record)
        level.record = replace(record, tokens=body, centroids=centroids)
        body = centroids
    return body


def _on_grid(
    tokens: Tensor, prefix: int, suffix: int, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply `change` to the tokens between the first `prefix` and the last `suffix`."""
    if prefix == suffix == 0:
        return change(tokens)
    end = tokens.shape[1] - suffix
    body = change(tokens[:, prefix:end])
    return torch.cat([tokens[:, :prefix], body, tokens[:, end:]], dim=1)
