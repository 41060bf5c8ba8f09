"""Sweeps as GitHub's Markdown, for pull requests."""

import re
from collections.abc import Iterable, Sequence

from expedite.evaluate.recommend import code, recommend, verdict
from expedite.evaluate.results import Results
from expedite.evaluate.table import columns, pareto_front
from expedite.report.notes import COUNTING, TIMING, asked, notes, title


def markdown(sweeps: Sequence[Results]) -> str:
    r"""A table of each sweep with its recommendation, its command and its environment.

    Example:
        >>> print(markdown([Results({"model": "a|b"}, "depth")]))
        ### a\|b
        ...
    """
    parts = [part for results in sweeps for part in _parts(results)]
    return "\n\n".join([*parts, COUNTING, TIMING]) + "\n"


def _parts(results: Results) -> Iterable[str]:
    yield f"### {escaped(title(results))}"
    yield table(results)
    yield escaped(verdict(results))
    if (best := recommend(results)) and best.plan:
        yield fenced(code(best.plan), "python")
    yield from map(escaped, notes(results, "Bold"))
    yield "<details><summary>Command and environment</summary>"
    if results.command:
        yield fenced(results.command, "sh")
    named = [[escaped(name), escaped(value)] for name, value in asked(results).items()]
    yield _lines([["", ""], [":--", ":--"], *named])
    yield "</details>"


def table(results: Results) -> str:
    """The rows; those that none beats are bold."""
    shown, front = columns(results), pareto_front(results)
    rows = []
    for row in results.rows:
        cells = [escaped(text(row)) for text in shown.values()]
        rows.append([f"**{cell}**" if cell else "" for cell in cells] if row in front else cells)
    sides = [":--", *["--:"] * (len(shown) - 1)]
    return _lines([[escaped(name) for name in shown], sides, *rows])


def escaped(text: str) -> str:
    r"""Words as Markdown shows them as they are, in a cell or out of one.

    Example:
        >>> print(escaped("a|b_c <i>"))
        a\|b\_c &lt;i&gt;
    """
    text = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"\s", " ", text)


def fenced(text: str, language: str) -> str:
    """Code in a fence that is longer than any in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _lines(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
