"""Time whole models on an NVIDIA GPU in bfloat16: eager, in CUDA graphs and compiled.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --model segmenter --mode "CUDA graph,max-autotune" --batch-size 8
    python -m benchmarks.gpu --smoke

From the repository's root. Unpatched and patched run in turn in one process, in the same mode.
The last command runs a small model on the CPU, to try that everything works; its figures mean
nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES, CUDA_GRAPH, SMALL, TITLES, Pair, find_case
from expedite.cli.options import parse_list
from expedite.measure.mode import COMPILE_MODES, PLAIN
from expedite.measure.speed import setting

MODES = (PLAIN, CUDA_GRAPH, "reduce-overhead")


def rows(
    pair: Pair, modes: Sequence[str], batches: Sequence[int], pairs: int, seconds: float
) -> Iterator[tuple[str, ...]]:
    """A line for every mode at every batch."""
    for mode in modes:
        for batch in batches:
            torch.compiler.reset()
            measured = pair.measure(batch, mode, pairs, seconds)
            title = (pair.case.name, str(batch), "eager" if mode == PLAIN else mode)
            free = _with_free_operators(pair, mode, batch, pairs, seconds)
            yield (*title, *measured.cells(pair.allowed), free)


def _with_free_operators(pair: Pair, mode: str, batch: int, pairs: int, seconds: float) -> str:
    """The share of what is allowed that no faster operators could exceed, from CUDA graphs."""
    if mode != CUDA_GRAPH:
        return ""
    timing = pair.with_free_operators(batch).measure(batch, mode, pairs, seconds).timing
    return f"{timing.speedup.median / pair.allowed:.2f}"


def main(
    model: Annotated[str, typer.Option(help=f"One or more of {', '.join(CASES)}.")] = ",".join(
        CASES
    ),
    mode: Annotated[
        str, typer.Option(help=f'One or more of {", ".join(COMPILE_MODES)} and "{CUDA_GRAPH}".')
    ] = ",".join(MODES),
    batch_size: Annotated[str, typer.Option(help="One or more.")] = "1,8",
    seconds: Annotated[float, typer.Option(help="How long to time each pair of models.")] = 5.0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A small model on the CPU.")] = False,
) -> None:
    """Measure every model in every mode at every batch."""
    if not smoke and not torch.cuda.is_available():
        typer.echo("There is no CUDA device here; --smoke tries the program on the CPU.", err=True)
        raise typer.Exit(2)
    torch.backends.cudnn.benchmark = True  # of convolutions, whose sizes are fixed
    device, modes = torch.device("cpu" if smoke else "cuda"), parse_list(mode)
    batches, least = [int(size) for size in parse_list(batch_size)], 10
    if smoke:
        modes, batches, least, seconds = [PLAIN], [1, 2], 2, 0.0
    table = Table("model", "batch", "mode", *TITLES, "with free operators")
    progress, under = Console(stderr=True), []
    for case in [SMALL] if smoke else map(find_case, parse_list(model)):
        pair = case.make(device).to(device, torch.bfloat16)
        for row in rows(pair, modes, batches, least, seconds):
            progress.print(*row, sep=" | ", highlight=False)  # the table comes at the very end
            table.add_row(*row)
        under.append(f"{case.name}: {setting(pair.fast, pair.image)}")
    Console(width=180).print(table, *under, sep="\n", highlight=False)


if __name__ == "__main__":
    typer.run(main)
