"""One page of tables, plots and pictures that needs nothing beside it, and the same as Markdown."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image, UnidentifiedImageError

from expedite.errors import ExpediteError
from expedite.evaluate.recommend import code, recommend, verdict
from expedite.evaluate.results import Results, replacing
from expedite.evaluate.table import columns, main_measures, pareto_front
from expedite.report import charts
from expedite.report.markdown import markdown
from expedite.report.notes import COUNTING, TIMING, asked, notes, title
from expedite.report.plot import COSTS, plot

_PICTURES = "picture*.png"


@dataclass(frozen=True)
class Section:
    """One sweep on a page.

    Args:
        results: What was measured.
        folder: Where its plots go as PNG files, and where its pictures lie as picture*.png.
    """

    results: Results
    folder: Path


def write_report(folder: Path, sections: Sequence[Section]) -> Path:
    """Write report.html, which is returned, report.md, and the plots as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        _write_plots(section)
    with replacing(folder / "report.md") as file:
        file.write(markdown([section.results for section in sections]).encode("utf-8", "replace"))
    with replacing(folder / "report.html") as file:
        file.write(page(sections).encode("utf-8", "replace"))
    return folder / "report.html"


def page(sections: Sequence[Section]) -> str:
    """The page as HTML."""
    source, style, script = (_asset(f"report.{kind}") for kind in ("html", "css", "js"))
    template = Environment(autoescape=True, trim_blocks=True).from_string(source)
    contents = [_content(section) for section in sections]
    return template.render(
        sections=contents,
        data=[content["figures"] for content in contents],
        size=charts.FRAME,
        footer=[COUNTING, TIMING],
        style=style,
        script=script,
    )


def _asset(name: str) -> str:
    return files("expedite").joinpath(f"assets/{name}").read_text(encoding="utf-8")


def _content(section: Section) -> dict[str, Any]:
    results = section.results
    shown, front = columns(results), pareto_front(results)
    best = recommend(results)
    rows = [[text(row) for text in shown.values()] for row in results.rows]
    return {
        "title": title(results),
        "verdict": verdict(results),
        "code": code(best.plan) if best and best.plan else None,
        "command": results.command,
        "environment": asked(results),
        "columns": list(shown),
        "rows": [
            {"cells": cells, "front": row in front}
            for row, cells in zip(results.rows, rows, strict=True)
        ],
        "notes": notes(results, "Shaded"),
        "charts": charts.charts_of(results),
        "pictures": [_picture(path) for path in sorted(section.folder.glob(_PICTURES))],
        # What a plot says of a row that is pointed at.
        "figures": [list(zip(shown, cells, strict=True)) for cells in rows],
    }


def _picture(path: Path) -> dict[str, str]:
    """The title that a PNG carries, and its pixels as WebP, a tenth of the size."""
    try:
        with Image.open(path) as image:
            file = io.BytesIO()
            image.convert("RGB").save(file, "WEBP", quality=80)
            caption = str(image.info.get("Title", path.stem))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ExpediteError(f"{path} cannot be read as an image: {error}") from error
    content = base64.b64encode(file.getvalue()).decode()
    return {"title": caption, "data": f"data:image/webp;base64,{content}"}


def _write_plots(section: Section) -> None:
    if not main_measures(section.results):
        return
    section.folder.mkdir(parents=True, exist_ok=True)
    for cost in COSTS:
        with replacing(section.folder / f"accuracy_{cost}.png") as file:
            plot(section.results, cost).savefig(file, format="png", dpi=150)
