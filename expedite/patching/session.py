"""What happens to tokens where spans begin and end.

The hooks that bring tokens here are in `hooks`, and what stands in place of methods in `methods`. A
call's state is a `Frame` that opens with the call and closes with it, whatever happens.
"""

import warnings
from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.geometry.graphs import varies_in_export
from expedite.geometry.units import unit_order
from expedite.operators.clustering import Clustering, TokenClustering, full_precision, pool
from expedite.operators.drift import spreads
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
from expedite.patching.calibration import Calibration
from expedite.patching.frame import Frame, Level, Shown, Store
from expedite.patching.host import Cells, Host, Reads
from expedite.patching.rotary import grid_positions
from expedite.patching.watching import Watch
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
        self.calibration = self.find_calibration()
        self.store = Store()
        self.watch = Watch(host)
        self.count = len(host.blocks)
        self.is_on = True  # until the model is unpatched
        self.is_leaving = False  # as soon as no call runs any more
        self.has_warned = False
        self.ran: list[int | None] = [None] * self.count  # tokens that each block last ran on
        ranges = plan.ranges(host.depth)
        self.spans = [(first, end) for _, first, end in ranges]
        self.clusterings = self.make_clusterings()
        self.exits = {
            end - 1 for _, _, end in ranges if not self._hands_over(end, self.clusterings)
        }
        self.reconstruction = self.make_reconstruction()

    def find_calibration(self) -> Calibration | None:
        """What the plan names, if it fits the host."""
        if self.plan.calibration is None:
            return None
        found = Calibration.load(self.plan.calibration)
        found.check(self.host, self.plan.spans[0].alpha)
        return found

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
        if self.settled.space == "normalized":
            normalized = F.layer_norm(body, body.shape[-1:])
            if self.calibration is None:
                return normalized
            with full_precision(body.device):
                return normalized.float() @ self.calibration.on(body.device)[0]
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
        frame = self.store.frame
        return None if frame is None or frame.grid is None else frame

    def call(
        self,
        frame: Frame,
        method: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run what was called, in its frame."""
        return method(*args, **kwargs)

    def frame_of(self, index: int, tokens: Tensor) -> Frame | None:
        """The state in which a block that no call surrounds is to run on `tokens`.

        Tokens carry it from block to block, and to where a block is run again in a backward pass.
        None where it is to run as it would unpatched.
        """
        self.check_tensor(tokens)
        found = self.store.recall(tokens, index)
        if is_run_again():
            if found is None:
                self.check_again(index)
            return found
        if not self.is_on:
            return None
        if found is not None and found.is_foreign:
            return found
        grid = self.find_grid(index, tokens)
        if grid is None:
            return None
        learns = torch.is_grad_enabled() or tokens.requires_grad
        return Frame(self, False, Reads(), is_foreign=True, learns=learns, grid=grid)

    def check_tensor(self, value: Any) -> None:
        """Refuse what torch.fx hands modules to take a model apart."""
        if not isinstance(value, Tensor):
            raise ExpediteError(
                f"a patched {self.host.family} was run on a {type(value).__name__}, as torch.fx "
                "does; take the unpatched model apart, or read features with hooks on blocks"
            )

    def check_again(self, index: int) -> None:
        """Refuse to run a block again on clusters that are not known."""
        if any(first <= index < end for first, end in self.spans):
            raise ExpediteError(
                f"block {index} of the {self.host.family} is run again in the backward pass, where "
                "its clusters are not known; checkpoint the whole model, or its blocks by "
                "torch.utils.checkpoint"
            )

    def find_grid(self, index: int, tokens: Tensor) -> tuple[int, int] | None:
        """The embedding's grid, where block `index` got `tokens` and no call knows it.

        None, after a warning, where it cannot be told.
        """
        host, stage = self.host, self.host.stage_of(index)
        shape = tuple(tokens.shape[1:-1])
        own = [shape] if len(shape) == 2 and not stage else []  # maps say it themselves
        for grid in (self.store.grid, *own, host.usual_grid):
            if grid is not None and self._has_grid(index, host.grids(grid)[stage], shape):
                return grid
        self.warn(
            f"block {index} of a patched {host.family} was run past a call of the model, on tokens "
            f"of shape {tuple(tokens.shape)} whose grid is not known, so it ran unpatched; call "
            "the model, or run its embedding before its blocks"
        )
        return None

    def _has_grid(self, index: int, grid: tuple[int, int], shape: tuple[int, ...]) -> bool:
        if len(shape) == 2:
            return shape == grid
        return shape[0] == sum(self.host.beside(index)) + prod(grid)

    def warn(self, message: str) -> None:
        """Warn of what a patched model does, once for every time that it is patched."""
        if not self.has_warned and not torch.compiler.is_compiling():
            self.has_warned = True
            warnings.warn(message, UserWarning, stacklevel=2)

    def is_reached(self, frame: Frame) -> bool:
        """Whether a call reads anything behind the first span's beginning."""
        taps = frame.reads.taps
        return frame.with_head or frame.reads.last or max(taps, default=-1) >= self.spans[0][0]

    def check_clustered(self) -> None:
        """Say it where a call ended and no span began."""
        if self.clusterings and not is_traced() and not self.store.has_clustered:
            self.warn(
                f"a patched {self.host.family} was called and none of the blocks ran that are to "
                "run on clusters, so nothing was saved; patch it again if it was changed since"
            )

    def check_end(self, frame: Frame) -> None:
        """Refuse to return clusters where the full grid is due."""
        if frame.keeps_every_token or self._stays_clustered(frame, self.count - 1):
            return
        raise ExpediteError(
            f"a call of a {self.host.family} ended before the block after which the full grid "
            "returns; blocks changed after it was patched, so patch it again"
        )

    def remember(self, frame: Frame, index: int, tokens: Tensor) -> None:
        """Have tokens carry what block `index` needs where it is run again for gradients."""
        if frame.learns and not torch.compiler.is_compiling() and index < self.spans[-1][1]:
            self.store.carry(tokens, index, frame)

    def enter(self, frame: Frame, index: int, block: nn.Module, tokens: Tensor) -> Tensor:
        """What block `index` is to run on, given what reached it: (B, prefix + N, C) or a map."""
        if frame.levels:
            self._check_gradients(frame, tokens.requires_grad)
        if frame.stream is not None:
            tokens = self._go_on(frame, index, tokens)
        if frame.levels and self.host.queries and index == self.host.queries.before:
            frame.mask = self._mask(frame, tokens, *self.host.beside(index))
        if frame.grid is not None and (layer := self._layer_at(frame, index, tokens)) is not None:
            tokens = self._enter_span(frame, index, layer, block, tokens)
        if not is_traced():
            self.ran[index] = prod(tokens.shape[1:-1])
        return tokens

    def _enter_span(
        self, frame: Frame, index: int, layer: nn.Module, block: nn.Module, tokens: Tensor
    ) -> Tensor:
        beside = self.host.beside(index)
        tokens = _on_grid(
            tokens, *beside, lambda body: self._cluster(frame, index, layer, block, body)
        )
        if self.host.window is None:
            frame.mask = self._with_shared_bias(frame, self._mask(frame, tokens, *beside))
        else:
            frame.cells = self._cells(frame, index)
        frame.positions = None
        frame.has_clustered = True
        return tokens

    def _check_gradients(self, frame: Frame, flows_in: bool) -> None:
        """Refuse clusters through which gradients would have to flow and cannot."""
        is_cut = any(level.is_cut for level in frame.levels)
        if is_cut and (flows_in or torch.is_grad_enabled()):
            self._refuse_reentrant()

    def _refuse_reentrant(self) -> None:
        raise ExpediteError(
            f"blocks of a patched {self.host.family} were checkpointed with use_reentrant=True "
            "one by one, where gradients would be wrong; use_reentrant=False works"
        )

    def _layer_at(self, frame: Frame, index: int, tokens: Tensor) -> nn.Module | None:
        """What clusters the tokens that enter block `index`; None where they stay as they are."""
        if index in self.clusterings:
            return self.clusterings[index]
        if frame.levels or not self.clusterings:
            return None
        # The first block that runs, where the span's own first was left out.
        starts = [first for first, end in self.spans if first < index < end]
        if starts and tokens.requires_grad and not torch.is_grad_enabled():
            self._refuse_reentrant()
        return self.clusterings[starts[0]] if starts else None

    def _go_on(self, frame: Frame, index: int, tokens: Tensor) -> Tensor:
        """The clusters that were set aside, or the means of what readers made of their tokens."""
        stream, shown, queries = frame.stream, frame.shown, self.host.queries
        frame.stream = frame.shown = None
        assert stream is not None
        joined = tokens[:, : queries.count] if queries and index == queries.before else None
        if joined is not None:
            tokens = tokens[:, joined.shape[1] :]
        went_on = self._changed(frame, index, stream, shown, tokens)
        return went_on if joined is None else torch.cat([joined, went_on], 1)

    def _changed(
        self, frame: Frame, index: int, stream: Tensor, shown: Shown | None, tokens: Tensor
    ) -> Tensor:
        if shown is None or shown.is_unchanged(tokens):
            return stream
        if tokens.shape != shown.tokens.shape:
            raise ExpediteError(
                f"tokens of shape {tuple(shown.tokens.shape)} were changed to "
                f"{tuple(tokens.shape)} between blocks of a {self.host.family} that run on "
                "clusters; a hook there must leave the shape, or the model must be unpatched"
            )
        beside = self.host.beside(max(index - 1, 0))
        if self.host.adds_between:
            added = tokens - shown.tokens
            return stream + _on_grid(added, *beside, lambda body: self._mean(frame, body))
        return _on_grid(tokens, *beside, lambda body: self._mean(frame, body))

    def query_mask(
        self, frame: Frame, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor | None:
        """The mask among clusters in place of one that says to which tokens queries attend.

        Args:
            frame: The call's.
            index: Of the block.
            args: Those of its call, with a mask (B, heads, n, n) over the full grid that is added
                to scores, the same for all heads.
            kwargs: Likewise.

        Returns:
            (B, 1, n, n) for n tokens of which the grid's are clusters: each counts as the share of
            its tokens to which a query may attend. None where there is no mask.
        """
        queries, slot = self.host.queries, self.host.mask
        given = slot.find(args, kwargs) if slot and queries and queries.masked else None
        if queries is None or given is None or frame.keeps_every_token:
            return given
        rows = given[:, 0, : queries.count].float()  # (B, queries, n)
        weights = (rows - rows.amax(-1, keepdim=True)).exp().mT
        beside = self.host.beside(index)
        weights = _on_grid(weights, *beside, lambda body: self._mean(frame, body))
        masked = weights.clamp_min(_LEAST_MASS).log().mT.to(given.dtype)
        mask = F.pad(masked, (0, 0, 0, masked.shape[-1] - masked.shape[1]))[:, None]
        return mask if frame.mask is None else mask + frame.mask

    def leave(self, frame: Frame, index: int, tokens: Tensor, is_read: bool = False) -> Tensor:
        """What is shown of block `index`'s output, (B, prefix + N or h·w, C).

        `is_read` says that somebody reads it of whom the host does not know.
        """
        shown = tokens
        if frame.levels:
            tokens = self.put_right(frame, index, tokens)
            shown = self._shown(frame, index, tokens, is_read or frame.is_foreign)
        # Where no call keeps the frame open, the next block finds it with its tokens.
        if is_run_again() or (frame.is_foreign and frame.levels):
            self.store.carry(shown, index + 1, frame)
        return shown

    def put_right(self, frame: Frame, index: int, tokens: Tensor) -> Tensor:
        """Cluster tokens after block `index` without what blocks are known to turn them wrongly."""
        level = frame.levels[-1]
        if self.calibration is None or level.record.is_identity:
            return tokens
        assert isinstance(level.record, Clustering)  # a calibration is for maps alone
        if level.spreads is None:
            level.spreads = spreads(level.record)
        drift = self.calibration.on(tokens.device)[1][index - self.calibration.alpha]
        with full_precision(tokens.device):
            added = level.spreads @ drift
        return _on_grid(tokens, *self.host.beside(index), lambda body: body + added.to(body.dtype))

    def _shown(self, frame: Frame, index: int, tokens: Tensor, is_read: bool) -> Tensor:
        is_last = index == self.count - 1
        if is_last and self._stays_clustered(frame, index) and not self._has_plain_head:
            return self._show(frame, index, tokens, is_read) if is_read else tokens
        if is_last and self._has_plain_head and frame.with_head and not is_read:
            return tokens
        if index in self.exits:
            restored = self.restore(frame, tokens, *self.host.beside(index))
            # The head's blocks average over the clusters again, unless their delta is not wanted.
            goes_on = is_last and frame.with_head and self._clusters_head_blocks and self.plan.delta
            if not goes_on:
                frame.forget()
            return restored
        if is_read or index in frame.reads.taps or self.host.adds_between:
            return self._show(frame, index, tokens, is_read or self.host.adds_between)
        return tokens

    def _show(self, frame: Frame, index: int, tokens: Tensor, may_change: bool) -> Tensor:
        """The full grid for readers, while the clusters are set aside."""
        restored = self.restore(frame, tokens, *self.host.beside(index))
        frame.stream, frame.shown = tokens, Shown.of(restored) if may_change else None
        return restored

    def take_stream(
        self, frame: Frame, tokens: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The cluster tokens set aside, for a module that hands them on to the next block.

        With where they stand: the means of their tokens' places, (B, h·w, 2) across and down.
        """
        assert frame.grid is not None
        tokens = self._go_on(frame, 0, tokens)
        places = grid_positions(frame.grid, device).expand(tokens.shape[0], -1, -1)
        rows, columns = self._mean(frame, places).unbind(-1)
        height, width = frame.grid
        return tokens, torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], -1)

    def add_to_stream(self, frame: Frame, before: Tensor, after: Tensor) -> None:
        """Add to the cluster tokens set aside the means of what was added to their tokens."""
        assert frame.stream is not None
        prefix, added = self.host.prefix_tokens, after - before
        mean = _on_grid(added, prefix, 0, lambda body: self._mean(frame, body))
        frame.stream = frame.stream + mean
        frame.shown = None if frame.shown is None else Shown.of(after)

    def _mean(self, frame: Frame, body: Tensor) -> Tensor:
        """Means (B, h·w, C) over the clusters in force of what tokens (B, N, C) have, or maps."""
        is_flat = self._is_flat_map(body)
        for level in frame.levels:
            if isinstance(level.record, Clustering):
                body = pool(body, level.record)
            else:
                body = body[:, level.order[1]] if is_flat and level.order else body
                as_a_map = as_map(body, level.record.grid)
                body = pool_windows(as_a_map, level.record)
        return body.flatten(1, 2) if is_flat else body

    def is_in_head(self, frame: Frame) -> bool:
        """Whether blocks of the head are to run on clusters."""
        return bool(frame.levels) and self.plan.reconstruct_at == "head"

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

    def average(self, frame: Frame, pooled: nn.Module, tokens: Tensor, output: Tensor) -> Tensor:
        """What a module that is averaged next makes of tokens, with the clusters' mean.

        That is one token, the mean that the clusters' masses weigh, in place of all but the prefix.
        Where somebody reads the full grid, it is all of them with that mean.
        """
        if frame.stream is None:
            return self._with_mean(frame, output)
        if frame.shown is not None and not frame.shown.is_unchanged(tokens):
            return output  # the mean of what a reader made of them
        of_clusters: Tensor = type(pooled).forward(pooled, frame.stream)
        prefix = self.host.prefix_tokens
        mean = self._with_mean(frame, of_clusters)[:, prefix:]
        missing = mean - output[:, prefix:].mean(1, keepdim=True)
        return torch.cat([output[:, :prefix], output[:, prefix:] + missing], 1)

    def _with_mean(self, frame: Frame, tokens: Tensor) -> Tensor:
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
        self._check_gradients(frame, flows_in=False)
        for level in reversed(frame.levels):
            if level.weights is None and not level.record.is_identity:
                level.weights = self.reconstruction.weigh(level.record)
            body = self.reconstruction(body, level.record, level.weights)
        order = frame.levels[0].order
        body = body.flatten(1, 2) if is_flat else body
        return body if order is None else body[:, order[0]]

    def _is_flat_map(self, body: Tensor) -> bool:
        """Whether tokens that windows are to be cut from came as (B, H·W, C)."""
        return self.host.window is not None and body.dim() == 3

    def _cluster(
        self, frame: Frame, index: int, layer: nn.Module, block: nn.Module, body: Tensor
    ) -> Tensor:
        last = frame.levels[-1].record if frame.levels else None
        assert frame.grid is not None  # `frame` hands out frames with a grid alone
        stage = self.host.stage_of(index)
        grid = last.clusters if last else self.host.grids(frame.grid)[stage]
        if varies_in_export(*body.shape[1:], *grid):
            raise ExpediteError(
                f"a graph for images of any size was asked of a patched {self.host.family}, whose "
                "clusters are laid out for one; dynamic_shapes with the batch alone, and a file "
                "for each size, work"
            )
        if (count := prod(body.shape[1:-1])) != grid[0] * grid[1]:
            raise ExpediteError(
                f"block {index} of the {self.host.family} got {count} tokens on a grid of "
                f"{grid[0]}×{grid[1]}; clustering needs them all, so patch dropout must be off"
            )
        if not last and self.host.stages:
            _check_size(self.host, index, grid)
        self._check_weights(index, body)
        features = self.measured(frame, index, block, body)
        mass = last.mass if last else None
        order = None if last else self._order(index, grid, body.device)
        if order is not None:
            body = body[:, order[1]]
            features = None if features is None else features[:, order[1]]
        if is_flat := self._is_flat_map(body):
            body = as_map(body, grid)
            features = None if features is None else as_map(features, grid)
        centroids: Tensor
        centroids, record = layer(body, grid, features, mass)
        is_cut = frame.learns and not torch.is_grad_enabled()
        frame.levels.append(Level(record, is_cut=is_cut, order=order))
        return centroids.flatten(1, 2) if is_flat else centroids

    def _order(
        self, index: int, grid: tuple[int, int], device: torch.device
    ) -> tuple[Tensor, Tensor] | None:
        """In which order the tokens of a map come to block `index`; None where row by row."""
        host = self.host
        steps, rows, columns = host.stages[host.stage_of(index)].dealt if host.stages else (0, 1, 1)
        if steps == 0:
            return None
        order, place = unit_order(*grid, steps, rows, columns, device)
        return order, place

    def _check_weights(self, index: int, body: Tensor) -> None:
        """Refuse weights that are elsewhere until a module is called, where ours reads them."""
        if body.is_meta or (self.host.run is None and self.host.bias is None):
            return
        end = next(end for first, end in self.spans if first <= index < end)
        if any(next(block.parameters()).is_meta for block in self.host.blocks[index:end]):
            raise ExpediteError(
                f"blocks {index} to {end - 1} of a patched {self.host.family} were to run with "
                "offloaded weights, which are read there besides modules' own calls; a model whose "
                "weights stay on their device works"
            )

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
            self._places(frame, grid) if self.host.asks_places else None,
        )

    def _places(self, frame: Frame, grid: tuple[int, int]) -> Tensor:
        """Row and column where every cluster of a map stands, the means of its tokens'."""
        mass = frame.levels[-1].record.mass
        places = as_map(grid_positions(grid, mass.device), grid)
        return self._mean(frame, places.expand(mass.shape[0], -1, -1, -1))

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

        Not where positions are read for regular cells, unless a host with windows says so. A Swin's
        are, but within small windows, and moving was measured to pay there, not in a SwinV2's
        (docs/method.md).
        """
        host = self.host
        if host.window is not None:
            return host.moves and self.plan.window_borders
        return host.bias is None

    def _stays_clustered(self, frame: Frame, index: int) -> bool:
        """Whether nobody reads the full grid of the last block's output."""
        if index in frame.reads.taps:
            return False
        if not frame.with_head:
            return not frame.reads.last
        return self._has_plain_head or self.host.readout(self.host.model) != "tokens"

    @property
    def _has_plain_head(self) -> bool:
        """Whether the head runs on the clusters as they are."""
        return self.plan.reconstruct_at == "head" and not self.plan.delta

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


def is_traced() -> bool:
    """Whether a graph is made of a call."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def is_run_again() -> bool:
    """Whether a backward pass is under way, in which blocks run again that were checkpointed."""
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._current_graph_task_id() != -1)


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
