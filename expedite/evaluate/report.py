"""One page of tables, plots and pictures that needs nothing beside it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from matplotlib.figure import Figure

from expedite.evaluate.plot import COSTS, plot
from expedite.evaluate.results import Results, replacing
from expedite.evaluate.table import columns, main_measures, pareto_front

COUNTING = "GFLOPs count multiply-adds, those of clustering and reconstruction included."
TIMING = (
    "FPS at batch 1. A speed-up is the median over pairs of runs in turn, with its quartiles; the "
    "unpatched model was timed against itself."
)
_FRONT = "Shaded rows: no other plan has both fewer GFLOPs and a {better} {metric}."


@dataclass(frozen=True)
class Picture:
    """A PNG file that belongs into the page."""

    title: str
    path: Path


@dataclass(frozen=True)
class Section:
    """One sweep on a page.

    Args:
        results: What was measured.
        folder: Where its plots go as PNG files.
        pictures: What to show below them.
    """

    results: Results
    folder: Path
    pictures: Sequence[Picture] = ()


def write_report(folder: Path, sections: Sequence[Section]) -> Path:
    """Write the plots as PNG files and everything as report.html, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    source = files("expedite").joinpath("assets/report.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True).from_string(source)
    with replacing(page) as file:
        file.write(template.render(sections=[_content(section) for section in sections]).encode())
    return page


def _content(section: Section) -> dict[str, Any]:
    results = section.results
    shown, front = columns(results), pareto_front(results)
    return {
        "title": str(results.request.get("model", "sweep")),
        "setting": results.setting,
        "command": results.command,
        "columns": list(shown),
        "rows": [
            {"cells": [text(row) for text in shown.values()], "front": row in front}
            for row in results.rows
        ],
        "notes": [*_front_note(results), COUNTING, TIMING, *results.notes],
        "plots": _plots(section),
        "pictures": [
            {"title": picture.title, "data": base64.b64encode(picture.path.read_bytes()).decode()}
            for picture in section.pictures
        ],
    }


def _front_note(results: Results) -> list[str]:
    if not (mains := main_measures(results)):
        return []
    better = "lower" if mains[0].metric.lower_is_better else "higher"
    return [_FRONT.format(better=better, metric=mains[0].title)]


def _plots(section: Section) -> list[str]:
    """Plots as SVG, each written as a PNG file too."""
    if not main_measures(section.results):
        return []
    section.folder.mkdir(parents=True, exist_ok=True)
    plots = []
    for cost in COSTS:
        figure = plot(section.results, cost)
        with replacing(section.folder / f"accuracy_{cost}.png") as file:
            figure.savefig(file, format="png", dpi=150)
        plots.append(_svg(figure))
    return plots


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg")
    content = text.getvalue()
    return content[content.index("<svg") :]
