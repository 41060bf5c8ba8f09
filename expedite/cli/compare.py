"""`expedite compare`: two sweeps against each other."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from expedite.cli.options import AsJson
from expedite.evaluate.json_text import json_text
from expedite.evaluate.results import read_results
from expedite.report.compare import (
    compare,
    comparison_content,
    comparison_notes,
    comparison_table,
)


def compare_command(
    first: Annotated[Path, typer.Argument(help="A sweep's folder, or its results.json.")],
    second: Annotated[Path, typer.Argument(help="Another's.")],
    as_json: AsJson = False,
) -> None:
    """Show what changed between two sweeps for the plans that both measured."""
    found = compare(read_results(first), read_results(second))
    if as_json:
        typer.echo(json_text(comparison_content(found)))
        return
    console = Console(soft_wrap=True)
    console.print(comparison_table(found))
    for note in comparison_notes(found):
        console.print(note, markup=False, highlight=False)
