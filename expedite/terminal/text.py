"""Text as any terminal takes it: nothing in it steers the terminal, and every encoding has it."""

import codecs
import io
import re
import sys
from collections.abc import Mapping

SUBSTITUTE = "expedite.substitute"

# C0 and C1 without tab and newline, and what ends lines or turns the direction of writing.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_BREAKING = re.compile("[\t\n]")

# What stands for our own symbols where an encoding has them not.
_READABLE: Mapping[str, str] = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "epsilon",
    "κ": "kappa",
    "λ": "lambda",
    "μ": "mu",
    "π": "pi",
    "τ": "tau",
    "Δ": "Delta",
    "Σ": "Sum",
    "×": "x",
    "·": "*",
    "−": "-",
    "→": "->",
    "√": "sqrt",
    "‖": "||",
    "…": "...",
    "½": "1/2",
    "²": "^2",
    "³": "^3",
    "─": "-",
    "━": "-",
}


def clean(text: str) -> str:
    r"""Text for a terminal: control characters are shown as what they are, and steer nothing.

    All text that a terminal gets goes through here, for names and files are not ours.

    Example:
        >>> print(clean("a\x1b[31mb"))
        a\x1b[31mb
    """
    return _STEERING.sub(_escaped, text)


def clean_line(text: str) -> str:
    r"""The same for what has to stay in one line.

    Example:
        >>> print(clean_line("two\nlines"))
        two\nlines
    """
    return _BREAKING.sub(_escaped, clean(text))


def fitted(text: str, encoding: str) -> str:
    r"""Text with substitutes for what an encoding has no character for, so that it can be measured.

    Example:
        >>> fitted("α4 20×20 → 語", "ascii")
        'alpha4 20x20 -> \\u8a9e'
    """
    return text.encode(encoding, SUBSTITUTE).decode(encoding)


def use_substitutes() -> None:
    """Let standard output and error write substitutes where their encoding lacks a character.

    A way with errors that the user has set (PYTHONIOENCODING=:replace, say) stays.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace"):
            stream.reconfigure(errors=SUBSTITUTE)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    # Others stand as escapes, from which a name can be told: a bare question mark is no name.
    found = (_READABLE.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(found), error.end


codecs.register_error(SUBSTITUTE, _substitute)
