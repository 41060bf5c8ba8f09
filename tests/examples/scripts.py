"""Running an example as a person would, in this process: another would import everything again."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(EXAMPLES / script), *map(str, words)]
    code, before = 0, Path.cwd()
    with (
        contextlib.redirect_stdout(io.StringIO()) as stdout,
        contextlib.redirect_stderr(io.StringIO()) as stderr,
        patch.object(sys, "argv", command),
    ):
        os.chdir(folder)
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            os.chdir(before)
    return subprocess.CompletedProcess(command, code, stdout.getvalue(), stderr.getvalue())


def run_apart(script: str, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, where nothing of the tests is."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
