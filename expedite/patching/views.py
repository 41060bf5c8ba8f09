"""Blocks that attend to several views of a scene: on clusters of each, but for the first view.

A model puts views behind one another in a batch, (B·S, N, C), or in a row, (B, S·N, C), and counts
on as many tokens of each. So between blocks it is handed the full grid, or what the block got where
nobody reads it, while the clusters of all views but the first stand aside.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.patching.frame import Frame, Shown
from expedite.patching.host import Host, Views, found_in
from expedite.patching.levels import mean, on_grid
from expedite.patching.methods import RunBlock, SessionMethod

# Under which names a frame remembers the tokens of all views that were handed to readers, and
# those of whole views where nothing was handed on.
_HANDED, _WHOLE = "handed", "whole"


@dataclass(frozen=True)
class Scene:
    """How many tokens of which views there are.

    Args:
        views: Of every scene.
        whole: How many of them, from the first on, stay whole: the first, where there are others.
        length: Tokens of a view, those beside the grid too.
    """

    views: int
    whole: int
    length: int

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Views that stay whole, and the others: (B·1, N, C) and (B·(S-1), N, C) of any layout."""
        of_each = tokens.reshape(-1, self.views, self.length, tokens.shape[-1])
        return of_each[:, : self.whole].flatten(0, 1), of_each[:, self.whole :].flatten(0, 1)

    def join(self, whole: Tensor, others: Tensor) -> Tensor:
        """All views of a scene in a row, (B, tokens, C)."""
        if not self.whole:
            return others.reshape(-1, self.views * others.shape[1], others.shape[-1])
        rows = whole.reshape(-1, self.whole * self.length, whole.shape[-1])
        return torch.cat([rows, others.reshape(len(rows), -1, rows.shape[-1])], 1)

    def part(self, row: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
        """The inverse of `join`, where the others have so many tokens each."""
        end = self.whole * self.length
        whole = row[:, :end].reshape(-1, self.length, row.shape[-1])
        return whole, row[:, end:].reshape(-1, clusters, row.shape[-1])

    def mask(self, of_others: Tensor | None) -> Tensor | None:
        """What is added to the scores of all views' keys, (B, 1, 1, keys), of the others'."""
        if of_others is None:
            return None
        row = of_others.reshape(-1, 1, 1, (self.views - self.whole) * of_others.shape[-1])
        return F.pad(row, (self.whole * self.length, 0))


@dataclass(eq=False)
class RunViews(RunBlock):
    """Runs a block of a host of many views."""

    def _run(self, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        session, module = frame.session, self.of()
        scene = _scene(session.host, frame, self.index, args[0])
        _settle_shown(frame, args[0])
        session.remember(frame, self.index, args[0])
        whole, others = scene.split(args[0])
        whole = frame.notes.pop(_WHOLE, whole)
        others = session.enter(frame, self.index, module, others)
        if not frame.levels:
            return self.original(*args, **kwargs)
        whole, others = self._on_both(frame, scene, (whole, others), args, kwargs)
        is_read = session.watch.is_read(self.index, module)
        others = session.leave(frame, self.index, others, is_read)
        if frame.levels and frame.stream is None:  # nobody reads it, so it can be anything
            frame.stream, frame.notes[_WHOLE] = others, whole
            return args[0]
        handed = scene.join(whole, others).reshape(args[0].shape)
        if frame.shown is not None:
            frame.notes[_HANDED] = Shown.of(handed)
        return handed

    def _on_both(
        self,
        frame: Frame,
        scene: Scene,
        tokens: tuple[Tensor, Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """What the block makes of views that stay whole and of the clusters of the others."""
        views = _views(frame.session.host)
        given = found_in(args, kwargs, views.positions, 1)
        _check_arguments(self.index, given, args, kwargs)
        whole, others = tokens
        places = _places(frame, scene, given)
        if self.index in views.joint:
            where = None if places is None else scene.join(*places)
            row = self._attend(frame, scene.join(*tokens), where, scene.mask(frame.mask))
            return scene.part(row, others.shape[1])
        at, at_others = (None, None) if places is None else places
        others = self._attend(frame, others, at_others, frame.mask)
        return self._attend(frame, whole, at, None) if scene.whole else whole, others

    def _attend(
        self, frame: Frame, tokens: Tensor, places: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The block's output where attention is under this mask."""
        views = _views(frame.session.host)
        kept, frame.mask = frame.mask, mask
        try:
            output: Tensor = self.original(tokens, **{views.positions: places})
        finally:
            frame.mask = kept
        return output


class TurnBetween(SessionMethod):
    """Turns queries and keys by the positions of clusters, which stand between tokens."""

    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        if not positions.is_floating_point():
            output: Tensor = self.original(tokens, positions)
            return output
        return _views(self.session.host).turn(self.module, tokens, positions)


def _views(host: Host) -> Views:
    assert host.views is not None  # or none of this were in place
    return host.views


def _scene(host: Host, frame: Frame, index: int, tokens: Tensor) -> Scene:
    if frame.views is None or frame.grid is None:
        raise ExpediteError(
            f"block {index} of a patched {host.family} was run past a call of the model, where it "
            "is not known how many views a scene has; call the model"
        )
    length = sum(host.beside(index)) + prod(frame.grid)
    if prod(tokens.shape[:-1]) % (frame.views * length):
        raise ExpediteError(
            f"block {index} of the {host.family} got tokens of shape {tuple(tokens.shape)} where "
            f"scenes have {frame.views} views of {length} tokens each; clustering needs them all"
        )
    return Scene(frame.views, int(frame.views > 1), length)


def _settle_shown(frame: Frame, tokens: Tensor) -> None:
    """Let the clusters go on where nobody changed what readers were handed, in any layout."""
    handed: Shown | None = frame.notes.pop(_HANDED, None)
    if handed is None or tokens.numel() != handed.tokens.numel():
        return
    if handed.is_unchanged(tokens.reshape(handed.tokens.shape)):
        frame.shown = None


def _check_arguments(
    index: int, places: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuse what is handed to a block beside its tokens and their positions."""
    others = [value for value in (*args[1:], *kwargs.values()) if value is not places]
    if any(value is not None for value in others):
        raise ExpediteError(
            f"block {index} was called with a mask, which covers the full grid, and it is to run "
            "on clusters; call the model without a mask, or unpatch it"
        )


def _places(frame: Frame, scene: Scene, given: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Rows and columns of the tokens of whole views, and of the clusters of the others."""
    if given is None:
        return None
    if frame.keeps_every_token:
        return scene.split(given)
    whole, others = scene.split(given)
    before, behind = frame.session.host.beside(0)
    means = on_grid(others.float(), before, behind, lambda body: mean(frame, body))
    return whole, means
