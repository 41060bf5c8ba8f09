"""How every example runs: one console, and errors in one sentence."""

import sys
from collections.abc import Callable

import typer
from rich.console import Console

from expedite.errors import ExpediteError

console = Console()


def run_script(command: Callable[..., None]) -> None:
    """Run a command line; what cannot be done ends in one sentence and exit code 2."""
    try:
        typer.run(command)
    except (ExpediteError, OSError) as error:
        console.print(f"error: {error}", soft_wrap=True)
        sys.exit(2)
