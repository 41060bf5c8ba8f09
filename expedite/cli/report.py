"""`expedite report`: the tables of sweeps as Markdown for a pull request, or as a page."""

from pathlib import Path
from typing import Annotated

import typer

from expedite.cli.options import working_on
from expedite.errors import ExpediteError
from expedite.terminal.console import make_console, write
from expedite.terminal.text import clean

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
    with working_on("reading what was measured"):
        text = _text(runs, form)
    if out is not None:
        _save(text, out)
    elif form == "html":  # which says itself that it is in UTF-8
        typer.echo(clean(text).encode("utf-8", "replace"), nl=False)
    else:
        write(make_console(), text.removesuffix("\n"))


def _text(runs: list[Path], form: str) -> str:
    from expedite.evaluate.results import read_results
    from expedite.report.markdown import markdown
    from expedite.report.report import Section, page

    folders = [run if run.is_dir() else run.parent for run in runs]
    sections = [
        Section(read_results(run), folder) for run, folder in zip(runs, folders, strict=True)
    ]
    return page(sections) if form == "html" else markdown([s.results for s in sections])


def _save(text: str, out: Path) -> None:
    from expedite.evaluate.results import replacing

    with replacing(out) as file:
        file.write(text.encode("utf-8", "replace"))
