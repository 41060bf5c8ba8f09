"""The command line, one file a command."""

import os
import sys
from typing import Annotated

import typer

from expedite.cli.bench import bench_command
from expedite.cli.calibrate import calibrate_command
from expedite.cli.compare import compare_command
from expedite.cli.demo import demo_command
from expedite.cli.describe import describe_command
from expedite.cli.environment import environment_command
from expedite.cli.export import export_command
from expedite.cli.flops import flops_command
from expedite.cli.recipes import recipes_command
from expedite.cli.report import report_command
from expedite.cli.reproduce import reproduce_command
from expedite.cli.sweep import sweep_command
from expedite.cli.tune import tune_command
from expedite.cli.visualize import visualize_command
from expedite.errors import ExpediteError, ToldElsewhereError
from expedite.terminal.console import make_console, write
from expedite.terminal.text import clean_line, use_substitutes
from expedite.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # whose tables cut the names of options
)
app.command("sweep")(sweep_command)
app.command("tune")(tune_command)
app.command("calibrate")(calibrate_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
app.command("visualize")(visualize_command)
app.command("describe")(describe_command)
app.command("environment")(environment_command)
app.command("flops")(flops_command)
app.command("bench")(bench_command)
app.command("export")(export_command)
app.command("recipes")(recipes_command)
app.command("reproduce")(reproduce_command)
app.command("demo")(demo_command)


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make trained vision transformers faster, with no training and no new weights."""
    if version:
        typer.echo(f"expedite {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; what cannot be done ends in one sentence and exit code 2."""
    # The profiler of a CUDA build complains on machines without a GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    use_substitutes()
    try:
        app()
    except ToldElsewhereError:
        sys.exit(2)
    except (ExpediteError, OSError) as error:
        write(make_console(stderr=True), f"error: {clean_line(_sentence(error))}")
        sys.exit(2)


def _sentence(error: ExpediteError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}"
    return str(error)
