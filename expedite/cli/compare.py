"""`expedite compare`: two sweeps against each other."""

from pathlib import Path
from typing import Annotated

import typer

from expedite.cli.options import AsJson, show, working_on
from expedite.errors import ExpediteError


def compare_command(
    first: Annotated[Path, typer.Argument(help="A sweep's folder, or its results.json.")],
    second: Annotated[Path, typer.Argument(help="Another's.")],
    out: Annotated[Path | None, typer.Option(help="A page to write too, a .html file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed between two sweeps for the plans that both measured."""
    if out is not None and out.suffix != ".html":
        raise ExpediteError(f"a page was to go to {out}; a .html file is due")
    with working_on("reading what was measured"):
        from expedite.evaluate.results import read_results, replacing
        from expedite.report.compare import (
            compare,
            comparison_content,
            comparison_notes,
            comparison_page,
            comparison_table,
        )

        found = compare(read_results(first), read_results(second))
    if out is not None:
        with replacing(out) as file:
            file.write(comparison_page(found).encode("utf-8", "replace"))
    notes = comparison_notes(found)
    show(comparison_content(found), [comparison_table(found), *notes], as_json)
