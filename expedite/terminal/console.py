"""Where commands write: standard output for what was asked, standard error for what goes on."""

import os
import sys

from rich.console import Console
from rich.text import Text

from expedite.terminal.table import Listing
from expedite.terminal.text import clean

# A file or a pipe has no width; COLUMNS gives it one.
_ANY_WIDTH = 100_000


def make_console(stderr: bool = False, quiet: bool = False) -> Console:
    """A console on a standard stream as that is now: exporters turn them aside while they run."""
    file = sys.stderr if stderr else sys.stdout
    console = Console(file=file, quiet=quiet)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _ANY_WIDTH
    return console


def write(console: Console, *parts: str | Listing) -> None:
    """Write paragraphs and tables, one below the other; nothing in them is taken for markup."""
    for part in parts:
        # What is too long is for the terminal to break, which joins it when it is copied.
        console.print(Text(clean(part)) if isinstance(part, str) else part, soft_wrap=True)
