import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from expedite.evaluate.report import (
    Picture,
    label,
    main_metric,
    pareto_front,
    terminal_table,
    write_report,
)
from expedite.evaluate.results import Results
from expedite.evaluate.sweep import Row
from expedite.plan import Plan, Span, make_plan


def row(gflops: float, fps: float, miou: float | None, alpha: int | None = 1, side: int = 4) -> Row:
    plan = None if alpha is None else make_plan(alpha, side)
    return Row(plan, tokens=side * side, of_tokens=64, gflops=gflops, fps=fps, miou=miou)


ROWS = [
    row(10, 10, 0.50, alpha=None),
    row(8, 12, 0.50),
    row(6, 11, 0.45, alpha=2),  # beaten by the next
    row(5, 20, 0.46, side=5),
    row(3, 30, 0.30, alpha=2, side=6),
]


def test_the_front_holds_what_nothing_beats() -> None:
    assert pareto_front(ROWS) == [ROWS[4], ROWS[3], ROWS[1]]


def test_accuracy_is_miou_where_there_are_labels() -> None:
    assert main_metric(ROWS) == "miou"
    assert main_metric([Row(None, 1, 1, fidelity=1.0)]) == "fidelity"
    assert main_metric([Row(None, 1, 1)]) is None


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (None, "unpatched"),
        (make_plan(4, (15, 52)), "α4 15x52"),
        (make_plan(4, keep=0.25), "α4 keep 0.25"),
        (Plan((Span(2, 20), Span(6, 14))), "α2+6 20x20+14x14"),
    ],
)
def test_labels(plan: Plan | None, expected: str) -> None:
    assert label(Row(plan, 1, 1)) == expected


def test_the_table_shows_every_row() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(Results({"model": "segmenter:x"}, rows=ROWS)))
    text = console.export_text()
    assert "segmenter:x" in text
    assert "α2 6x6" in text
    assert "46.00" in text
    assert "…" not in text  # nothing is cut at 80 columns


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(picture)
    results = Results({"model": "<b>model</b>"}, "expedite sweep", "a machine", ["a note"], ROWS)
    page = write_report(results, tmp_path, [Picture("before & after", picture)]).read_text()
    links = Links()
    links.feed(page)
    assert all(link.startswith(("data:", "#")) for link in links.found)
    assert not re.search(r"<script|@import|url\(http", page)
    assert "&lt;b&gt;model" in page
    for text in ("GFLOPs count multiply-adds", "a machine", "a note", "α2 6x6", "<svg"):
        assert text in page
    assert page.count('class="front"') == 3


def test_plots_are_written_beside_the_page(tmp_path: Path) -> None:
    write_report(Results({}, rows=ROWS), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "accuracy_fps.png",
        "accuracy_gflops.png",
        "report.html",
    ]


def test_without_accuracy_there_is_a_table_and_no_plot(tmp_path: Path) -> None:
    rows = [row(10, 10, None, alpha=None), row(5, 20, None)]
    page = write_report(Results({}, rows=rows), tmp_path).read_text()
    assert "<svg" not in page
    assert "α1 4x4" in page
