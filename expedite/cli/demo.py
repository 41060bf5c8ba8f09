"""`expedite demo`: shipped models on generated scenes."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from expedite.cli.options import Seconds, command_line
from expedite.report.demo import run_demo


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the report and the picture.")] = Path(
        "demo"
    ),
    images: Annotated[int, typer.Option(min=1, help="How many scenes to measure on.")] = 24,
    seconds: Seconds = 1.0,
) -> None:
    """Sweep the shipped models on generated scenes: no download, two minutes on two cores."""
    run_demo(out, images, seconds, Console(), command_line())
