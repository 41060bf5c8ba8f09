"""The processes that share a sweep, as torchrun starts them; one process is the plain case.

PyTorch is imported where there are others: one process reads its options without.
Only numbers go between them, on the CPU and by gloo, whose waiting takes no processor and no GPU:
the first may time a model while the others wait.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from expedite.errors import ExpediteError, ToldElsewhereError, first_line

Item = TypeVar("Item")

# One waits for all the images of another; who is lost is noticed by the connection.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """The processes of a sweep, and which of them this is.

    Args:
        rank: From 0.
        size: How many there are.
        local: The same as `rank` among those of this machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this one times, writes and tells."""
        return self.rank == 0

    def shard(self, count: int) -> range:
        """Which of `count` items are this rank's: a run of them, so ranks keep the items' order.

        Example:
            >>> [list(Ranks(rank, size=3).shard(4)) for rank in range(3)]
            [[0], [1], [2, 3]]
        """
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def each(self, work: Callable[[], Item]) -> Item:
        """Run `work` on every rank; each returns what it gave there.

        Raises:
            ExpediteError: It failed on a rank, which ends it on all of them.
        """
        if self.size == 1:
            return work()
        value: Any
        value, error = _outcome(work)
        sentences = self._collect(_sentence(error))
        failure: str = self._share(next(filter(None, sentences), ""))
        if error is not None and not isinstance(error, (ExpediteError, OSError)):
            raise error
        if failure:
            raise (ExpediteError if self.is_first else ToldElsewhereError)(failure) from error
        given: Item = value
        return given

    def gather(self, work: Callable[[], Item]) -> list[Item]:
        """Run `work` on every rank; the first returns what all gave, in order, others nothing."""
        value = self.each(work)
        return [value] if self.size == 1 else self._collect(value)

    def first(self, work: Callable[[], Item]) -> Item:
        """Run `work` on the first rank, while the others wait; all return what it gave."""
        value: Any = self.each(work if self.is_first else _nothing)
        shared: Item = value if self.size == 1 else self._share(value)
        return shared

    def _collect(self, item: Any) -> list[Any]:
        import torch.distributed as dist

        collected: list[Any] = [None] * self.size if self.is_first else []
        with _noticing_losses():
            dist.gather_object(item, collected if self.is_first else None)
        return collected

    def _share(self, item: Any) -> Any:
        import torch.distributed as dist

        shared = [item]
        with _noticing_losses():
            dist.broadcast_object_list(shared)
        return shared[0]


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun started, while the context lasts; a single one where it did not.

    Raises:
        ExpediteError: The others cannot be reached.

    Example:
        >>> with joined() as ranks:
        ...     ranks.size
        1
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    import torch.distributed as dist

    try:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:  # unreachable; not all that torchrun says is there
        raise ExpediteError(
            f"{size} processes were to share the sweep and cannot reach each other: "
            f"{first_line(error)}"
        ) from error
    try:
        yield Ranks(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()


def _outcome(work: Callable[[], Item]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # the others wait for this rank, whatever happened
        return None, error


def _sentence(error: Exception | None) -> str:
    if error is None or isinstance(error, (ExpediteError, OSError)):
        return "" if error is None else str(error)
    return f"one of the processes of the sweep failed: {first_line(error)}"


def _nothing() -> None:
    """What ranks after the first do while it works."""


@contextlib.contextmanager
def _noticing_losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ExpediteError(
            f"a process that shares the sweep was lost, which ends it: {first_line(error)}"
        ) from error
