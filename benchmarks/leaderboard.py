"""The page that ranks methods by model and budget, of the records in results/.

    python -m benchmarks.leaderboard                # writes docs/leaderboard.md
    python -m benchmarks.leaderboard --add DIR --instrument NAME --record FILE

The second takes an instrument from what `benchmarks.accuracy --out DIR` wrote into a record; its
words (title, error, unit, command, machine) are those of the record that is there, or due.
"""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results", ROOT / "docs" / "leaderboard.md"
WORDS = ("title", "error", "unit", "command", "machine")

Record = dict[str, Any]


def records() -> list[Record]:
    """What results/ holds, by the names of its files."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]


def page(found: list[Record]) -> str:
    """The page of these records."""
    parts = [
        "# Methods by model and budget\n",
        "At each α and share of the tokens, methods by their error, the best first. GFLOPs are",
        "multiply-adds, the operators' own too: a method further down may also cost less.",
        "The figures are in results/; `python -m benchmarks.leaderboard` writes this page of them.",
    ]
    return "\n".join([*parts, *(line for record in found for line in _of(record))]) + "\n"


def _of(record: Record) -> Iterator[str]:
    yield f"\n## {record['title']}\n"
    yield f"The error is {record['error']}, in {record['unit']}. {record['machine']}.\n"
    yield f"```sh\n{record['command']}\n```\n"
    yield "| α | tokens | method | GFLOPs | error | lost against labels |"
    yield "|---|---|---|---|---|---|"
    budgets = sorted(record["points"], key=lambda point: (point["alpha"], -point["keep"]))
    for (alpha, keep), points in groupby(budgets, lambda point: (point["alpha"], point["keep"])):
        for place, point in enumerate(sorted(points, key=lambda point: point["error"])):
            first = f"| {alpha} | {keep:.0%} " if place == 0 else "| | "
            lost = f"{point['lost']:.2f}" if record["has_labels"] else "–"
            error = f"{point['error']:.2f} ± {point['spread']:.2f}"
            yield f"{first}| {point['way']} | {point['gflops']:.2f} | {error} | {lost} |"


def add(accuracy: Path, instrument: str, record: Path) -> None:
    """Put an instrument of a run's accuracy.json into a record."""
    points = json.loads(accuracy.read_text(encoding="utf-8"))[instrument]
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    words = {word: known.get(word, "") for word in WORDS}
    has_labels = any(point["lost"] != point["error"] for point in points)
    content = {**words, "has_labels": has_labels, "points": points}
    record.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(
    run: Annotated[Path | None, typer.Option("--add", help="A folder of accuracy's.")] = None,
    instrument: Annotated[str, typer.Option(help="Its name.")] = "",
    record: Annotated[Path, typer.Option(help="In results/.")] = RESULTS / "new.json",
) -> None:
    """Write the page, or a record."""
    if run is not None:
        add(run / "accuracy.json", instrument, record)
    else:
        PAGE.write_text(page(records()), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
