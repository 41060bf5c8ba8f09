"""Time whole models on the CPU: the measured speed-up over the one that the GFLOPs allow.

    python -m benchmarks.models
    python -m benchmarks.models --model segmenter --dtype bfloat16 --pairs 3

From the repository's root. Unpatched and patched run in turn in one process; a speed-up is the
median over pairs. Peak memory is the patched model's over the unpatched one's, beyond the weights.
"""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES, CPU, TITLES, find_case
from expedite.cli.options import parse_list
from expedite.measure.mode import Mode
from expedite.measure.speed import setting


def main(
    model: Annotated[
        str, typer.Option(help=f"One or more of {', '.join(CASES)}; small to try it.")
    ] = ",".join(CASES),
    dtype: Annotated[str, typer.Option(help="One or more.")] = "float32,bfloat16",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    pairs: Annotated[int, typer.Option(min=2, help="At least so many.")] = 5,
    seconds: Annotated[float, typer.Option(help="Go on for so long.")] = 10.0,
) -> None:
    """Measure every model in every dtype."""
    table = Table("model", "dtype", *TITLES, "operators / block")
    under: list[str] = []
    progress = Console(stderr=True)
    for case in map(find_case, parse_list(model)):
        pair = case.make()
        for name in parse_list(dtype):
            pair = pair.to(CPU, Mode(name).torch_dtype)
            measured = pair.measure(batch_size, "none", pairs, seconds)
            operators = f"{pair.operators(batch_size, seconds):.2f}"
            cells = [case.name, name, *measured.cells(pair.allowed), operators]
            progress.print(*cells, sep=" | ", highlight=False)  # the table comes at the very end
            table.add_row(*cells)
            under.append(f"{case.name}: {setting(pair.fast, pair.image)}")
    Console(width=160).print(table, *under, sep="\n", highlight=False)


if __name__ == "__main__":
    typer.run(main)
