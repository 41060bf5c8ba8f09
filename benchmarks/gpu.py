"""Time whole models on an NVIDIA GPU in bfloat16: eager, compiled and in CUDA graphs.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --smoke

From the repository's root. Unpatched and patched run in turn in one process, both compiled alike.
The second command runs a small model on the CPU, to try that everything works; its figures mean
nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES, SMALL, TITLES, Pair
from expedite.evaluate.mode import COMPILE_MODES, PLAIN
from expedite.evaluate.speed import setting

BATCHES = (1, 8)


def rows(
    pair: Pair, modes: Sequence[str], batches: Sequence[int], pairs: int, seconds: float
) -> Iterator[tuple[str, ...]]:
    """A line for every mode at every batch."""
    for batch in batches:
        for mode in modes:
            torch.compiler.reset()
            measured = pair.measure(batch, mode, pairs, seconds)
            # Compiled code runs in one piece, in which operators cannot be told from blocks.
            operators = f"{pair.operators(batch, seconds):.2f}" if mode == PLAIN else ""
            title = (pair.case.name, str(batch), "eager" if mode == PLAIN else mode)
            yield (*title, *measured.cells(pair.allowed), operators)


def main(
    smoke: Annotated[bool, typer.Option("--smoke", help="A small model on the CPU.")] = False,
    seconds: Annotated[float, typer.Option(help="How long to time each pair of models.")] = 5.0,
) -> None:
    """Measure every model at every batch in every mode."""
    if not smoke and not torch.cuda.is_available():
        typer.echo("There is no CUDA device here; --smoke tries the program on the CPU.", err=True)
        raise typer.Exit(2)
    table = Table("model", "batch", "mode", *TITLES, "operators / block")
    under = []
    for case in [SMALL] if smoke else CASES.values():
        pair = case.make().to(torch.device("cpu" if smoke else "cuda"), torch.bfloat16)
        modes, batches = ((PLAIN,), (1, 2)) if smoke else (COMPILE_MODES, BATCHES)
        for row in rows(pair, modes, batches, 2 if smoke else 10, 0.0 if smoke else seconds):
            table.add_row(*row)
        under.append(f"{case.name}: {setting(pair.fast, pair.image)}")
    Console(width=180).print(table, *under, sep="\n", highlight=False)


if __name__ == "__main__":
    typer.run(main)
