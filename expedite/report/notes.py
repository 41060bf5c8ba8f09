"""What every report says around its table: how figures are counted, what was asked, with what."""

import json

from expedite.evaluate.results import Results
from expedite.evaluate.table import main_measures
from expedite.measure.environment import other_versions

COUNTING = "GFLOPs count multiply-adds, those of clustering and reconstruction included."
TIMING = (
    "FPS at batch 1. A speed-up is the median over pairs of runs in turn, with its quartiles; the "
    "unpatched model was timed against itself."
)


def title(results: Results) -> str:
    """The model that was measured, as it was asked for."""
    return str(results.request.get("model", "sweep"))


def asked(results: Results) -> dict[str, str]:
    """What was asked, and with what it was measured, by name.

    Example:
        >>> asked(Results({"model": "dpt:x", "image_size": [64, 96], "protocol": {}}, "depth"))
        {'model': 'dpt:x', 'image size': '[64, 96]'}
    """
    request = {
        name.replace("_", " "): value if isinstance(value, str) else json.dumps(value)
        for name, value in results.request.items()
        if value not in (None, {}, [])
    }
    return {**request, **results.environment}


def notes(results: Results, marked: str) -> list[str]:
    """The sentences under a table whose best rows are marked in some way."""
    versions = other_versions(results.environment)
    return [*_front_note(results, marked), *results.notes, *versions]


def _front_note(results: Results, marked: str) -> list[str]:
    """The sentence on the rows that are marked, where any are."""
    if not (mains := main_measures(results)):
        return []
    better = "lower" if mains[0].metric.lower_is_better else "higher"
    what = f"fewer GFLOPs and a {better} {mains[0].title}"
    return [f"{marked} rows: no other plan has both {what}."]
