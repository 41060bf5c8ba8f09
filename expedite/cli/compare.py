"""`expedite compare`: two sweeps against each other."""

from pathlib import Path
from typing import Annotated

import typer

from expedite.cli.options import AsJson, show, working_on


def compare_command(
    first: Annotated[Path, typer.Argument(help="A sweep's folder, or its results.json.")],
    second: Annotated[Path, typer.Argument(help="Another's.")],
    as_json: AsJson = False,
) -> None:
    """Show what changed between two sweeps for the plans that both measured."""
    with working_on("reading what was measured"):
        from expedite.evaluate.results import read_results
        from expedite.report.compare import (
            compare,
            comparison_content,
            comparison_notes,
            comparison_table,
        )

        found = compare(read_results(first), read_results(second))
    notes = comparison_notes(found)
    show(comparison_content(found), [comparison_table(found), *notes], as_json)
