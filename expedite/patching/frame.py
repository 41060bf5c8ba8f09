"""The state of one call of a patched model, kept per thread: nothing on modules or classes.

Blocks that run inside a call of their model find the call's frame open in their thread. Blocks that
are run by somebody else, or again in a backward pass (gradient checkpointing), find what they need
with their tokens: a copy of the frame stays with the tensor that entered or left a block.
"""

import threading
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from expedite.geometry.graphs import is_captured
from expedite.operators.clustering import Clustering
from expedite.operators.spreading import Spread
from expedite.operators.windows import WindowClustering, WindowWeights
from expedite.patching.host import Cells, Reads

# Under which name tensors carry the state that a block needs while a graph is made of them.
_CARRIED = "_expedite_carried"


@dataclass
class Level:
    """One clustering in force, with its token weights once somebody needed them.

    Args:
        record: The clustering.
        weights: How the full grid is made of the clusters.
        is_cut: Whether gradients cannot reach what it was made of.
        spreads: See `drift.spreads`, once somebody needed them.
        order: Where the clustered tokens did not come row by row, which came where, and the place
            of each.
    """

    record: Clustering | WindowClustering
    weights: Spread | WindowWeights | None = None
    is_cut: bool = False
    spreads: Tensor | None = None
    order: tuple[Tensor, Tensor] | None = None


@dataclass
class Shown:
    """The full grid that was handed to readers while the clusters were set aside."""

    tokens: Tensor
    version: int
    kept: Tensor | None = None  # a copy, where changes in place leave no trace

    @classmethod
    def of(cls, tokens: Tensor) -> "Shown":
        if torch.compiler.is_compiling():
            return cls(tokens, 0)
        if not tokens.is_inference():
            return cls(tokens, tokens._version)
        return cls(tokens, 0, tokens.clone() if may_compare(tokens) else None)

    def is_unchanged(self, tokens: Tensor) -> bool:
        """Whether these are the tokens that were shown, or an alias of them, as they were."""
        if torch.compiler.is_compiling():
            return tokens is self.tokens
        if tokens is not self.tokens and not _share_memory(tokens, self.tokens):
            return False
        if self.kept is not None:
            return torch.equal(tokens, self.kept)
        return tokens.is_inference() or tokens._version == self.version


@dataclass(eq=False)
class Frame:
    """The state of one call.

    Args:
        session: The `session.Session` that the call began with, and ends with.
        with_head: Whether the whole model was called, not its backbone alone.
        reads: Which blocks' outputs somebody reads besides the next block.
        masked: Whether the caller gave a mask; transformers makes one of its own, all of it true,
            while a graph is exported.
        is_foreign: Whether blocks are run by somebody unknown, who may read whatever they put out.
        learns: Whether gradients are wanted, so that blocks may be run again for them.
        views: How many views each scene has, of a host of many views.
    """

    session: Any
    with_head: bool
    reads: Reads
    masked: bool = False
    is_foreign: bool = False
    learns: bool = field(default_factory=torch.is_grad_enabled)
    views: int | None = None
    has_clustered: bool = False  # whether any span began
    grid: tuple[int, int] | None = None
    levels: list[Level] = field(default_factory=list)
    mask: Tensor | None = None
    positions: Any = None  # the clusters' rotary positions, as blocks take them
    shared_bias: Tensor | None = None  # of the full grid, as the model hands it to blocks
    cells: Cells | None = None  # the clustered map, where blocks attend in windows
    # Cluster tokens set aside while the reader of a tap is handed the full grid.
    stream: Tensor | None = None
    shown: Shown | None = None  # where the reader may change what goes on
    query_mask: Tensor | None = None  # among clusters, in place of one that a block was handed
    # What the hooks of a plan's own session keep for each other.
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def keeps_every_token(self) -> bool:
        """Whether nothing was merged: clusters on the full grid are the tokens themselves."""
        return all(level.record.is_identity for level in self.levels)

    @property
    def records(self) -> list[Clustering]:
        """The clusterings in force, of a host without windows."""
        return [level.record for level in self.levels if isinstance(level.record, Clustering)]

    def forget(self) -> None:
        """No clustering is in force any more."""
        self.levels = []
        self.mask = self.positions = self.cells = None

    def copy(self) -> "Frame":
        """The state as it is now, whatever becomes of this one."""
        levels = [replace(level) for level in self.levels]
        return replace(self, levels=levels, notes=dict(self.notes))


class Carried:
    """What a tensor carries: the state in which a block is to run on it."""

    def __init__(self, index: int, frame: Frame) -> None:
        self.index = index
        # The shown tokens are those that carry this: held here, they would keep themselves.
        self.is_shown = frame.shown is not None
        self.version = 0 if frame.shown is None else frame.shown.version
        self.kept = None if frame.shown is None else frame.shown.kept
        self.frame = replace(frame.copy(), shown=None)

    def opened(self, tokens: Tensor) -> Frame:
        """The frame for a block that got `tokens`."""
        frame = self.frame.copy()
        if self.is_shown:
            frame.shown = Shown(tokens, self.version, self.kept)
        return frame


class Store:
    """The open frames of each thread, innermost last. Copies and pickles as empty.

    Shared by all sessions that a model is patched with one after the other.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self.running: set[object] = set()  # one for every call, whatever its thread
        # Not as an attribute of the tensor, which would be saved with it.
        self._by_tensor = WeakTensorKeyDictionary()
        # Reentrant checkpointing runs blocks again on detached tensors, known by their memory.
        self._by_memory: WeakValueDictionary[tuple[Any, ...], Carried] = WeakValueDictionary()
        self._within = WeakTensorKeyDictionary()  # what a block runs on: its index and the frame

    @property
    def frames(self) -> list[Frame]:
        if not hasattr(self._local, "frames"):
            self._local.frames = []
        frames: list[Frame] = self._local.frames
        return frames

    @property
    def frame(self) -> Frame | None:
        """The innermost open frame of this thread."""
        frames = self.frames
        return frames[-1] if frames else None

    @property
    def grid(self) -> tuple[int, int] | None:
        """The grid that the embedding made last in this thread, outside of any call."""
        return getattr(self._local, "grid", None)

    @grid.setter
    def grid(self, grid: tuple[int, int] | None) -> None:
        self._local.grid = grid

    @property
    def has_clustered(self) -> bool:
        """Whether a span began in this thread since this was last set to False, if it ever was."""
        return getattr(self._local, "has_clustered", True)

    @has_clustered.setter
    def has_clustered(self, value: bool) -> None:
        self._local.has_clustered = value

    def carry(self, tokens: Tensor, index: int, frame: Frame) -> None:
        """Have tokens carry the state in which block `index` is to run on them."""
        carried = Carried(index, frame)
        if torch.compiler.is_compiling():
            setattr(tokens, _CARRIED, carried)
        else:
            self._by_tensor[tokens] = carried
            self._by_memory[_memory(tokens)] = carried

    def recall(self, tokens: Tensor, index: int) -> Frame | None:
        """The state in which block `index` is to run on tokens, if they carry it."""
        carried: Carried | None = getattr(tokens, _CARRIED, None)
        if not torch.compiler.is_compiling():
            known = tokens in self._by_tensor
            carried = self._by_tensor[tokens] if known else self._by_memory.get(_memory(tokens))
        if carried is None or carried.index != index:
            return None
        return carried.opened(tokens)

    def hold(self, tokens: Tensor, index: int, frame: Frame) -> None:
        """Keep the state in which block `index` runs on `tokens` for as long as they live."""
        self._within[tokens] = index, frame.copy()

    def held(self, index: int) -> list[Frame]:
        """The states in which block `index` may be run again."""
        kept = list(self._within.values())  # type: ignore[no-untyped-call]
        return [frame for number, frame in kept if number == index]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Store":
        return Store()

    def __reduce__(self) -> tuple[type["Store"], tuple[()]]:
        return Store, ()


def may_compare(tokens: Tensor) -> bool:
    """Whether the values of tensors can be looked at: not while a graph is made of a call."""
    if is_captured():
        return False
    return not (tokens.is_cuda and torch.cuda.is_current_stream_capturing())


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and _memory(one) == _memory(other)


def _memory(tokens: Tensor) -> tuple[Any, ...]:
    try:
        at = tokens.data_ptr()
    except RuntimeError:  # of tensors without storage, while a graph is made
        at = id(tokens)
    return tokens.device, at, tokens.shape, tokens.stride(), tokens.dtype
