"""Models that people were found to use, and rows of `benchmarks.coverage` that stand for them.

`coverage_named.tsv` says by what: the row is the model itself, of its class and in its way of being
called, or the model is built around the row's, which is all of it that is patched.
"""

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

NOT_TRIED = "not tried"


def summary(kinds: Mapping[str, str]) -> str:
    """How many of them are what, given what became of every row."""
    with Path(__file__).with_suffix(".tsv").open(newline="") as file:
        named = list(csv.DictReader(file, delimiter="\t"))
    found = Counter(kinds.get(line["row"], NOT_TRIED) for line in named)
    by_backbone = Counter(
        kinds.get(line["row"], NOT_TRIED) for line in named if line["by"] == "its backbone"
    )
    counted = ", ".join(
        f"{count} {kind} ({by_backbone[kind]} by their backbone)"
        if by_backbone[kind]
        else f"{count} {kind}"
        for kind, count in found.most_common()
    )
    return f"Of the {len(named)} models in `benchmarks/coverage_named.tsv`: {counted}."
