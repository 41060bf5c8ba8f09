"""What happens to tokens where spans begin and end.

The hooks that bring tokens here are in `hooks`, and what stands in place of methods in `methods`. A
call's state is a `Frame` that opens with the call and closes with it, whatever happens.
"""

import warnings
from collections.abc import Callable
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.geometry.graphs import is_captured, is_run_again
from expedite.geometry.units import unit_order
from expedite.operators.clustering import Clustering, full_precision
from expedite.operators.drift import spreads
from expedite.operators.reconstruction import TokenReconstruction
from expedite.operators.windows import WindowClustering, WindowTokenReconstruction, as_map
from expedite.patching.calibration import Calibration
from expedite.patching.frame import Frame, Level, Shown, Store
from expedite.patching.host import Cells, Host, Reads
from expedite.patching.layers import clusterings, hands_over, reconstruction
from expedite.patching.levels import mean, on_grid, pool_levels, restore_levels, with_mean
from expedite.patching.masks import key_mask, log_mass
from expedite.patching.packing import closed, opened
from expedite.patching.positions.bias import cluster_bias, window_bias
from expedite.patching.positions.rotary import grid_positions
from expedite.patching.refusals import (
    check_size,
    check_tensor,
    check_tokens,
    check_weights,
    refuse_again,
    refuse_end,
    refuse_head_again,
    refuse_reentrant,
)
from expedite.patching.stack import is_running
from expedite.patching.watching import Watch
from expedite.plan import Plan


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
            end - 1 for _, _, end in ranges if not hands_over(host, end, self.clusterings)
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
        return clusterings(self.host, self.settled)

    def make_reconstruction(self) -> TokenReconstruction | WindowTokenReconstruction:
        """The layer that brings the full grid back."""
        return reconstruction(self.host, self.plan)

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
        check_tensor(self.host, tokens)
        found = self.store.recall(tokens, index)
        if is_run_again():
            if found is None:
                self.check_again(index)
            return found
        if not self.is_on:
            return None
        if found is not None and found.is_foreign:
            return found
        if self._came_late(index):
            return None
        grid = self.find_grid(index, tokens)
        if grid is None:
            return None
        learns = torch.is_grad_enabled() or tokens.requires_grad
        return Frame(self, False, Reads(), is_foreign=True, learns=learns, grid=grid)

    def _came_late(self, index: int) -> bool:
        """Whether the model was patched in the middle of a call, which ends as it began."""
        if torch.compiler.is_compiling() or index <= self.spans[0][0]:
            return False
        return is_running(self.host.model, self.host.backbone)

    def check_again(self, index: int) -> None:
        """Refuse to run a block again on clusters that are not known."""
        if any(first <= index < end for first, end in self.spans):
            refuse_again(self.host, index)

    def held(self, frame: Frame, index: int, tokens: Tensor) -> Tensor:
        """The tokens on which block `index` is run, by which what is inside of it finds the frame.

        Where a library checkpoints within a block, in a backward pass that alone runs again.
        """
        if not frame.levels or not frame.learns or torch.compiler.is_compiling():
            return tokens
        # A tensor of its own: the state holds others, and would keep itself.
        alias = tokens.view_as(tokens)
        self.store.hold(alias, index, frame)
        return alias

    def frame_within(self, index: int) -> Frame | None:
        """The state in which what is inside of block `index` runs, or is run again."""
        if self.store.frame is not None or not is_run_again():
            return self.frame
        if len(frames := self.store.held(index)) != 1:  # or it could be any of them
            self.check_again(index)
            return None
        return frames[0]

    def check_head_again(self) -> None:
        """Refuse to run blocks of the head again on clusters, which are not known then."""
        if is_run_again() and self.plan.reconstruct_at == "head":
            refuse_head_again(self.host)

    def check_bypass(self, index: int) -> None:
        """Say it where layers of block `index`, of a span, ran and the block itself did not."""
        in_span = any(first <= index < end for first, end in self.spans)
        if not self.is_on or not in_span or is_run_again():
            return
        if not is_running(self.host.blocks[index]):  # and was patched meanwhile
            self.warn(
                f"layers of block {index} of a patched {self.host.family} were run and the block "
                "was not, as by code that torch.fx made of the model before it was patched, so "
                "they ran on every token; call the model or its blocks"
            )

    def find_grid(self, index: int, tokens: Tensor) -> tuple[int, int] | None:
        """The embedding's grid, where block `index` got `tokens` and no call knows it.

        None, after a warning, where it cannot be told.
        """
        host, stage = self.host, self.host.stage_of(index)
        if host.packing is not None:
            tokens = host.packing.open(tokens, self.store.grid or host.usual_grid, True)
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
        if self.clusterings and not is_captured() and not self.store.has_clustered:
            self.warn(
                f"a patched {self.host.family} was called and none of the blocks ran that are to "
                "run on clusters, so nothing was saved; patch it again if it was changed since"
            )

    def check_end(self, frame: Frame) -> None:
        """Refuse to return clusters where the full grid is due."""
        if not frame.keeps_every_token and not self._stays_clustered(frame, self.count - 1):
            refuse_end(self.host)

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
        else:
            tokens = opened(self.host, frame, tokens, frame.keeps_every_token)
        if frame.levels and self.host.queries and index == self.host.queries.before:
            frame.mask = self._key_mask(frame, tokens, *self.host.beside(index))
        if frame.grid is not None and (layer := self._layer_at(frame, index, tokens)) is not None:
            tokens = self._enter_span(frame, index, layer, block, tokens)
        if not is_captured():
            self.ran[index] = prod(tokens.shape[1:-1])
        return closed(self.host, frame, tokens, frame.keeps_every_token)

    def _enter_span(
        self, frame: Frame, index: int, layer: nn.Module, block: nn.Module, tokens: Tensor
    ) -> Tensor:
        beside = self.host.beside(index)
        tokens = on_grid(
            tokens, *beside, lambda body: self._cluster(frame, index, layer, block, body)
        )
        if self.host.window is None:
            frame.mask = self._with_shared_bias(frame, self._key_mask(frame, tokens, *beside))
        else:
            frame.cells = self._cells(frame, index)
        frame.positions = None
        frame.has_clustered = True
        return tokens

    def _check_gradients(self, frame: Frame, flows_in: bool) -> None:
        """Refuse clusters through which gradients would have to flow and cannot."""
        is_cut = any(level.is_cut for level in frame.levels)
        if is_cut and (flows_in or torch.is_grad_enabled()):
            refuse_reentrant(self.host)

    def _layer_at(self, frame: Frame, index: int, tokens: Tensor) -> nn.Module | None:
        """What clusters the tokens that enter block `index`; None where they stay as they are."""
        if index in self.clusterings:
            return self.clusterings[index]
        if frame.levels or not self.clusterings:
            return None
        # The first block that runs, where the span's own first was left out.
        starts = [first for first, end in self.spans if first < index < end]
        if starts and tokens.requires_grad and not torch.is_grad_enabled():
            refuse_reentrant(self.host)
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
            added = opened(self.host, frame, tokens - shown.tokens, is_full=True)
            return stream + on_grid(added, *beside, lambda body: mean(frame, body))
        tokens = opened(self.host, frame, tokens, is_full=True)
        return on_grid(tokens, *beside, lambda body: mean(frame, body))

    def leave(self, frame: Frame, index: int, tokens: Tensor, is_read: bool = False) -> Tensor:
        """What is shown of block `index`'s output, (B, prefix + N or h·w, C).

        `is_read` says that somebody reads it of whom the host does not know.
        """
        shown = tokens
        if frame.levels:
            tokens = opened(self.host, frame, tokens, frame.keeps_every_token)
            tokens = self.put_right(frame, index, self._with_local(frame, index, tokens))
            shown = self._shown(frame, index, tokens, is_read or frame.is_foreign)
        # Where no call keeps the frame open, the next block finds it with its tokens.
        if is_run_again() or (frame.is_foreign and frame.levels):
            self.store.carry(shown, index + 1, frame)
        return shown

    def _with_local(self, frame: Frame, index: int, tokens: Tensor) -> Tensor:
        """Cluster tokens with the means of what the block adds to theirs by mixing neighbours."""
        added = self.host.local and self.host.local(self.host.blocks[index])
        if not added or frame.keeps_every_token:
            return tokens
        return tokens + mean(frame, added(self.restore(frame, tokens)))

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
        return on_grid(tokens, *self.host.beside(index), lambda body: body + added.to(body.dtype))

    def _shown(self, frame: Frame, index: int, tokens: Tensor, is_read: bool) -> Tensor:
        is_last = index == self.count - 1
        closed_tokens = closed(self.host, frame, tokens, frame.keeps_every_token)
        if is_last and self._stays_clustered(frame, index) and not self._has_plain_head:
            return self._show(frame, index, tokens, is_read) if is_read else closed_tokens
        if is_last and self._has_plain_head and frame.with_head and not is_read:
            return closed_tokens
        if index in self.exits:
            restored = self.restore(frame, tokens, *self.host.beside(index))
            # The head's blocks average over the clusters again, unless their delta is not wanted.
            goes_on = is_last and frame.with_head and self._clusters_head_blocks and self.plan.delta
            if not goes_on:
                frame.forget()
            return closed(self.host, frame, restored, is_full=True)
        if is_read or index in frame.reads.taps or self.host.adds_between:
            return self._show(frame, index, tokens, is_read or self.host.adds_between)
        return closed_tokens

    def _show(self, frame: Frame, index: int, tokens: Tensor, may_change: bool) -> Tensor:
        """The full grid for readers, while the clusters are set aside."""
        restored = self.restore(frame, tokens, *self.host.beside(index))
        restored = closed(self.host, frame, restored, is_full=True)
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
        rows, columns = mean(frame, places).unbind(-1)
        height, width = frame.grid
        return tokens, torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], -1)

    def add_to_stream(self, frame: Frame, before: Tensor, after: Tensor) -> None:
        """Add to the cluster tokens set aside the means of what was added to their tokens."""
        assert frame.stream is not None
        prefix, added = self.host.prefix_tokens, after - before
        frame.stream = frame.stream + on_grid(added, prefix, 0, lambda body: mean(frame, body))
        frame.shown = None if frame.shown is None else Shown.of(after)

    def is_in_head(self, frame: Frame) -> bool:
        """Whether blocks of the head are to run on clusters."""
        return bool(frame.levels) and self.plan.reconstruct_at == "head"

    def enter_head(self, frame: Frame, tokens: Tensor, queries: int) -> Tensor:
        """Average the tokens of the head's blocks, (B, N + queries, C), over the clusters."""
        if self.plan.delta:
            tokens = on_grid(tokens, 0, queries, lambda body: pool_levels(frame, body))
        frame.mask = self._key_mask(frame, tokens, 0, queries)
        return tokens

    def leave_head(self, frame: Frame, tokens: Tensor, queries: int) -> Tensor:
        """Bring the full grid back at the head's end."""
        restored = self.restore(frame, tokens, suffix=queries)
        frame.forget()
        return restored

    def bias(self, frame: Frame, maker: nn.Module) -> Tensor:
        """The clusters' relative position bias, (1, heads, prefix + h·w, prefix + h·w)."""
        assert self.host.bias is not None and frame.grid is not None
        table = self.host.bias.table(maker, frame.grid)
        clusters, resized = frame.levels[-1].record.clusters, self.plan.position_tables == "resized"
        if self.host.prefix_tokens == 0:
            return window_bias(table, frame.grid, clusters, resized)[None]
        return cluster_bias(table, frame.grid, clusters, resized)

    def average(self, frame: Frame, pooled: nn.Module, tokens: Tensor, output: Tensor) -> Tensor:
        """What a module that is averaged next makes of tokens, with the clusters' mean.

        That is one token, the mean that the clusters' masses weigh, in place of all but the prefix.
        Where somebody reads the full grid, it is all of them with that mean.
        """
        prefix = self.host.prefix_tokens
        if frame.stream is None:
            return with_mean(frame, output, prefix)
        if frame.shown is not None and not frame.shown.is_unchanged(tokens):
            return output  # the mean of what a reader made of them
        of_clusters: Tensor = type(pooled).forward(pooled, frame.stream)
        averaged = with_mean(frame, of_clusters, prefix)[:, prefix:]
        missing = averaged - output[:, prefix:].mean(1, keepdim=True)
        return torch.cat([output[:, :prefix], output[:, prefix:] + missing], 1)

    def restore(self, frame: Frame, tokens: Tensor, prefix: int = 0, suffix: int = 0) -> Tensor:
        """The full grid, with what stands before and behind the cluster tokens left alone."""
        self._check_gradients(frame, flows_in=False)
        layer = self.reconstruction
        return on_grid(tokens, prefix, suffix, lambda body: restore_levels(frame, layer, body))

    def _cluster(
        self, frame: Frame, index: int, layer: nn.Module, block: nn.Module, body: Tensor
    ) -> Tensor:
        last = frame.levels[-1].record if frame.levels else None
        assert frame.grid is not None  # `frame` hands out frames with a grid alone
        stage = self.host.stage_of(index)
        grid = last.clusters if last else self.host.grids(frame.grid)[stage]
        check_tokens(self.host, index, body, grid)
        if not last and self.host.stages and self.host.window:
            check_size(self.host, index, grid)
        if not body.is_meta:
            check_weights(self.host, *self._span_with(index))
        features = self.measured(frame, index, block, body)
        mass = last.mass if last else None
        order = None if last else self._order(index, grid, body.device)
        if order is not None:
            body = body[:, order[1]]
            features = None if features is None else features[:, order[1]]
        if is_flat := self.host.window is not None and body.dim() == 3:
            body = as_map(body, grid)
            features = None if features is None else as_map(features, grid)
        centroids: Tensor
        centroids, record = layer(body, grid, features, mass)
        is_cut = frame.learns and not torch.is_grad_enabled()
        frame.levels.append(Level(record, is_cut=is_cut, order=order))
        return centroids.flatten(1, 2) if is_flat else centroids

    def _span_with(self, index: int) -> tuple[int, int]:
        """The span, from its first block to behind its last, in which block `index` lies."""
        return next(span for span in self.spans if span[0] <= index < span[1])

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

    def _key_mask(self, frame: Frame, tokens: Tensor, prefix: int, suffix: int) -> Tensor | None:
        return key_mask(frame, tokens, prefix, suffix) if self.plan.log_mass else None

    def _with_shared_bias(self, frame: Frame, mask: Tensor | None) -> Tensor | None:
        shared = self.host.bias.shared if self.host.bias else None
        if shared is None or frame.keeps_every_token:
            return mask
        bias = self.bias(frame, shared)
        return bias if mask is None else bias + mask  # (B, heads, keys, keys)

    def _cells(self, frame: Frame, index: int) -> Cells:
        first, record = frame.levels[0].record, frame.levels[-1].record
        assert isinstance(first, WindowClustering) and isinstance(record, WindowClustering)
        return Cells(
            first.filled,
            self.host.windows[self.host.stage_of(index)],
            record.clusters,
            record.cells,
            self.plan.window_borders,
            self.plan.kept_shift,
            log_mass(frame) if self.plan.log_mass else None,
            self.plan.position_tables == "resized",
            _places(frame, first.filled) if self.host.asks_places else None,
        )

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


def _places(frame: Frame, grid: tuple[int, int]) -> Tensor:
    """Row and column where every cluster of a map stands, the means of its tokens'."""
    mass = frame.levels[-1].record.mass
    places = as_map(grid_positions(grid, mass.device), grid)
    return mean(frame, places.expand(mass.shape[0], -1, -1, -1))
