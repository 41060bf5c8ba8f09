"""Commands in processes of their own, which begin with all libraries loaded.

They are forked from a process that loads them once and runs nothing: a start costs a tenth of a
second in place of the many that Python takes to load PyTorch. What a start itself must show (lean
imports, encodings, `python -m expedite`) is tested with `subprocess`.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOADED = ["tests.evaluate.shared_sweeps", "expedite.cli.sweep", "expedite.report.report"]
LOADED += ["expedite.loading.segmenter", "timm", "matplotlib.pyplot"]
SECONDS = 120  # after which a process hangs


@contextmanager
def all_loaded() -> Iterator[None]:
    """While it lasts, `start` and what else forks from the server finds libraries loaded."""
    from multiprocessing import forkserver  # of which Windows has none

    forkserver.set_forkserver_preload(LOADED)
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # waits, so its time is ours


@dataclass(frozen=True)
class Running:
    """A process and what it prints.

    Args:
        process: The process.
        folder: Holds the files `out` and `err`.
    """

    process: Any
    folder: Path

    @property
    def code(self) -> int | None:
        """What it ended with; minus the signal that killed it, None while it runs."""
        found: int | None = self.process.exitcode
        return found

    def wait(self) -> tuple[int | None, str, str]:
        """Its code, out and err, once it has ended."""
        self.process.join(SECONDS)
        self.process.kill()
        self.process.join()
        out, err = ((self.folder / name).read_text() for name in ("out", "err"))
        return self.code, out, err


def start(
    work: Callable[..., Any], folder: Path, *args: Any, environment: Mapping[str, str] | None = None
) -> Running:
    """Run `work` of a module in a process of its own, which prints into files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("forkserver").Process(
        target=_run, args=(work, folder, dict(environment or {}), args), daemon=True
    )
    process.start()
    return Running(process, folder)


def expedite(words: Sequence[object]) -> None:
    """The command, as `python -m expedite` runs it."""
    from expedite.cli import main

    sys.argv = ["expedite", *map(str, words)]
    main()


def _run(
    work: Callable[..., Any], folder: Path, environment: dict[str, str], args: tuple[Any, ...]
) -> None:
    import torch

    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ |= environment
    torch.set_num_threads(1)
    work(*args)
