"""`expedite report`: the tables of sweeps as Markdown for a pull request, or as a page."""

from pathlib import Path
from typing import Annotated

import typer

from expedite.errors import ExpediteError
from expedite.evaluate.results import read_results, replacing
from expedite.report.markdown import markdown
from expedite.report.report import Section, page

_FORMATS = ("markdown", "html")


def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of sweeps, or their results.json.")],
    form: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(_FORMATS)}.")
    ] = "markdown",
    out: Annotated[Path | None, typer.Option(help="The file to write; default: print it.")] = None,
) -> None:
    """Show sweeps that were measured: a table for a pull request, or a page that stands alone."""
    if form not in _FORMATS:
        raise ExpediteError(f"the format '{form}' was asked; {' and '.join(_FORMATS)} are known")
    folders = [run if run.is_dir() else run.parent for run in runs]
    sections = [
        Section(read_results(run), folder) for run, folder in zip(runs, folders, strict=True)
    ]
    sweeps = [section.results for section in sections]
    text = page(sections) if form == "html" else markdown(sweeps)
    if out is None:
        typer.echo(text, nl=False)
        return
    with replacing(out) as file:
        file.write(text.encode("utf-8", "replace"))
