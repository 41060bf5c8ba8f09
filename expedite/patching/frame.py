"""The state of one call of a patched model, kept per thread: nothing on modules or classes."""

import threading
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from expedite.operators.clustering import Clustering
from expedite.operators.spreading import Spread
from expedite.operators.windows import WindowClustering, WindowWeights
from expedite.patching.host import Cells, Reads


@dataclass
class Level:
    """One clustering in force, with its token weights once somebody needed them."""

    record: Clustering | WindowClustering
    weights: Spread | WindowWeights | None = None


@dataclass
class Frame:
    """The state of one call.

    Args:
        with_head: Whether the whole model was called, not its backbone alone.
        reads: Which blocks' outputs somebody reads besides the next block.
        masked: Whether the caller gave a mask; transformers makes one of its own, all of it true,
            while a graph is exported.
    """

    with_head: bool
    reads: Reads
    masked: bool = False
    grid: tuple[int, int] | None = None
    levels: list[Level] = field(default_factory=list)
    mask: Tensor | None = None
    positions: Any = None  # the clusters' rotary positions, as blocks take them
    shared_bias: Tensor | None = None  # of the full grid, as the model hands it to blocks
    cells: Cells | None = None  # the clustered map, where blocks attend in windows
    # Cluster tokens set aside while the reader of a tap is handed the full grid.
    stream: Tensor | None = None
    shown: Tensor | None = None  # that full grid
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


class Store:
    """The open frames of each thread, innermost last. Copies and pickles as empty."""

    def __init__(self) -> None:
        self._local = threading.local()

    @property
    def frames(self) -> list[Frame]:
        if not hasattr(self._local, "frames"):
            self._local.frames = []
        frames: list[Frame] = self._local.frames
        return frames

    def __deepcopy__(self, memo: dict[int, Any]) -> "Store":
        return Store()

    def __reduce__(self) -> tuple[type["Store"], tuple[()]]:
        return Store, ()
