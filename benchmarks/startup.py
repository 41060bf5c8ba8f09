"""How long commands and imports take before any work, in pairs of processes run in turn.

    python -m benchmarks.startup --before ../before --pairs 5

`--before` is a checkout of an earlier commit, run with this Python.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

HERE = Path(__file__).parent.parent
COMMANDS = (["--help"], ["bench", "demo:segmenter", "--alfa", "2"], ["bench", "demo:segmenter"])
IMPORTS = ("import expedite", "from expedite import patch")


def main(
    before: Annotated[Path, typer.Option(help="A checkout of an earlier commit.")],
    pairs: int = 5,
) -> None:
    """Print the median of every pair's ratio, first over second."""
    for words in COMMANDS:
        asked = ["-m", "expedite", *words]
        report(" ".join(asked[1:]), compared((HERE, asked), (before.resolve(), asked), pairs))
    for line in IMPORTS:
        asked, torch = ["-c", line], ["-c", "import torch"]
        report(f"{line} / import torch", compared((HERE, asked), (HERE, torch), pairs))


Program = tuple[Path, list[str]]
Spent = tuple[float, float]  # seconds of the wall, seconds of processors


def compared(first: Program, second: Program, pairs: int) -> list[tuple[Spent, Spent]]:
    """What both take, of so many pairs; a run of each before them fills the disk's cache."""
    for program in (first, second):
        spent(*program)
    return [(spent(*first), spent(*second)) for _ in range(pairs)]


def spent(root: Path, words: list[str]) -> Spent:
    """What a program takes in a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    before, began = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, check=False
    )
    after, ended = os.times(), time.perf_counter()
    user = after.children_user - before.children_user
    return ended - began, user + after.children_system - before.children_system


def report(name: str, found: list[tuple[Spent, Spent]]) -> None:
    """Print medians of seconds and of ratios, of the wall and of processors."""
    for index, kind in enumerate(("wall", "processors")):
        pairs = [(one[index], two[index]) for one, two in found]
        first, second = (median(times) for times in zip(*pairs, strict=True))
        ratio = median(one / two for one, two in pairs)
        print(f"{name}, {kind}: {first:.2f} s / {second:.2f} s = {ratio:.3f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
