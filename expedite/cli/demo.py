"""`expedite demo`: shipped models on generated scenes."""

from pathlib import Path
from typing import Annotated

import typer

from expedite.cli.options import Seconds, command_line, working_on
from expedite.terminal.console import make_console, write


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the report and the picture.")] = Path(
        "demo"
    ),
    images: Annotated[int, typer.Option(min=1, help="How many scenes to measure on.")] = 24,
    seconds: Seconds = 1.0,
) -> None:
    """Sweep the shipped models on generated scenes: no download, two minutes on two cores."""
    with working_on("loading PyTorch") as status:
        from expedite.report.demo import run_demo

        found = run_demo(out, images, seconds, status, command_line())
    write(make_console(), *found.told, f"look at {found.page}")
