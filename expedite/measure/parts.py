"""Where the time of a patched model's call goes: its blocks, the operators, and all around them.

Marks beside modules say when another part begins, so that every moment of a call belongs to one.
Compiled code runs in one piece, in which no part can be told from another.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from expedite.measure.speed import time_pairs, twin
from expedite.patching.describing import the_session
from expedite.patching.frame import Frame
from expedite.patching.hooks import Hook
from expedite.patching.session import Session

BEFORE = "blocks before α"
CLUSTERING = "clustering"
CLUSTERED = "blocks on clusters"
RECONSTRUCTION = "reconstruction"
OTHER = "other blocks on all tokens"  # between two spans, or after the last
HEAD = "head and all behind the last block"
REST = "the rest: embedding, between blocks"
PARTS = (BEFORE, CLUSTERING, CLUSTERED, RECONSTRUCTION, OTHER, HEAD, REST)


@dataclass(frozen=True)
class Parts:
    """Median seconds of each of `PARTS` in a call, and of calls without any marks."""

    seconds: dict[str, float]
    whole: float

    @property
    def share(self) -> float:
        """The sum of the parts over the whole: what lies above 1 is the cost of marking."""
        return sum(self.seconds.values()) / self.whole


class Clock:
    """Moments on a device: on a CPU by its clock, elsewhere by events in the queue of its work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> Any:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self.device, enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Seconds; all work must be done."""
        if self.device.type == "cpu":
            return float(end - start)
        return float(start.elapsed_time(end)) / 1000


@dataclass
class Recorder:
    """Which part began when, in every call; parts may lie within others, which then stand still."""

    clock: Clock
    calls: list[list[tuple[str, Any]]] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """A call begins, with the rest."""
        self.calls.append([])
        self._open = []
        self.enter(REST)

    def enter(self, part: str) -> None:
        self._open.append(part)
        self.calls[-1].append((part, self.clock.now()))

    def leave(self) -> None:
        """Go back to the part around it; at the end of a call to none."""
        self._open.pop()
        part = self._open[-1] if self._open else ""
        self.calls[-1].append((part, self.clock.now()))

    def switch(self, part: str) -> None:
        self._open[-1] = part
        self.calls[-1].append((part, self.clock.now()))

    def seconds(self, call: int) -> dict[str, float]:
        """How long each part of a call took; what runs after the last mark is in none."""
        total = dict.fromkeys(PARTS, 0.0)
        marks = self.calls[call]
        for (part, start), (_, end) in pairwise(marks):
            total[part] += self.clock.between(start, end)
        return total


@dataclass(eq=False)
class Mark(Hook):
    """Tells a recorder that a module begins or ends; one of our hooks, so that it reads no taps."""

    tell: Callable[[], None]

    def __call__(self, *arguments: Any) -> None:
        self.tell()


def time_parts(model: nn.Module, images: Tensor, *, seconds: float = 2.0) -> Parts:
    """Time the parts of a patched model's calls, in turn with calls of it without marks.

    Args:
        model: Patched.
        images: (B, 3, H, W).
        seconds: How long to go on.

    Example:
        >>> import timm, torch, expedite
        >>> model = timm.create_model("vit_tiny_patch16_224").eval()
        >>> expedite.patch(model, alpha=4, clusters=7)
        VisionTransformer(...)
        >>> parts = time_parts(model, torch.zeros(1, 3, 224, 224), seconds=0.0)
        >>> [part for part, seconds in parts.seconds.items() if not seconds]
        ['other blocks on all tokens']
    """
    recorder = Recorder(Clock(images.device))
    marked = with_marks(twin(model), recorder)
    timing = time_pairs(
        lambda: model(images), lambda: marked(images), images.device, seconds=seconds
    )
    counted = range(-timing.first.runs, 0)  # without those that warmed up
    calls = [recorder.seconds(call) for call in counted]
    return Parts(
        {part: median(call[part] for call in calls) for part in PARTS}, timing.first.median
    )


def with_marks(model: nn.Module, recorder: Recorder) -> nn.Module:
    """Put marks on a patched model, for good."""
    session = the_session(model)
    for index, block in enumerate(session.host.blocks):
        _mark_block(session, index, block, recorder)
    _mark_session(session, recorder)
    operators = [(layer, CLUSTERING) for layer in session.clusterings.values()]
    back = session.reconstruction
    for module, part in [*operators, (back, RECONSTRUCTION), (back.weigh, RECONSTRUCTION)]:
        _first(session, module, partial(recorder.enter, part))
        _last(session, module, recorder.leave)
    _first(session, model, recorder.begin)
    _last(session, model, recorder.leave)
    return model


def _mark_block(session: Session, index: int, block: nn.Module, recorder: Recorder) -> None:
    _first(session, block, partial(recorder.enter, _part_of(session, index)))
    _last(session, block, recorder.leave)
    if index == len(session.host.blocks) - 1:
        _last(session, block, partial(recorder.switch, HEAD))


def _mark_session(session: Session, recorder: Recorder) -> None:
    """Tell the ends of a block's run from the block itself."""
    enter, leave = session.enter, session.leave

    def entering(frame: Frame, index: int, block: nn.Module, tokens: Tensor) -> Tensor:
        recorder.enter(CLUSTERING if index in session.clusterings else _part_of(session, index))
        found = enter(frame, index, block, tokens)
        recorder.leave()
        return found

    def leaving(frame: Frame, index: int, tokens: Tensor, is_read: bool = False) -> Tensor:
        part = _part_of(session, index)
        recorder.enter(RECONSTRUCTION if part == CLUSTERED else part)
        found = leave(frame, index, tokens, is_read)
        recorder.leave()
        return found

    vars(session).update(enter=entering, leave=leaving)


def _part_of(session: Session, index: int) -> str:
    ranges = session.plan.ranges(session.host.depth)
    if any(first <= index < end for _, first, end in ranges):
        return CLUSTERED
    return BEFORE if index < ranges[0][1] else OTHER


def _first(session: Session, module: nn.Module, tell: Callable[[], None]) -> None:
    module.register_forward_pre_hook(Mark(session, tell), prepend=True)


def _last(session: Session, module: nn.Module, tell: Callable[[], None]) -> None:
    module.register_forward_hook(Mark(session, tell))
