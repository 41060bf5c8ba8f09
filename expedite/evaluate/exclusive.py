"""One process at a time for a folder: what two write into one is lost to one of them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from expedite.errors import ExpediteError
from expedite.evaluate.results import check_writable

_NAME = ".lock"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is made where it is not there.

    The lock is the system's own: it goes with the process, however that ends.

    Raises:
        ExpediteError: Another process is in it, or nothing can be written there.
    """
    check_writable(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ExpediteError(
            f"another sweep is writing to {folder}; wait for its end, or give another --out"
        ) from error
    try:
        yield
    finally:
        # Before others can have it: one who waits on a file that is gone begins anew.
        with suppress(OSError):
            (folder / _NAME).unlink()
        lock.release()
        if is_new:
            with suppress(OSError):  # something was written
                folder.rmdir()
