"""The page without a browser: what is in it, and that nothing is fetched; see test_browser."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedite import ExpediteError
from expedite.drawing.panels import Panel, draw_sheet
from expedite.evaluate.comparators import METHODS, plan_of
from expedite.evaluate.results import Results
from expedite.report.report import Section, page, write_report
from tests.evaluate.rows import ROWS, SEGMENTATION, depth_results, row_of

HOSTILE = '</script><script>alert("x")</script> <b>&amp; `|*_\udcff'
EMPTY = {"meta", "link", "img"}  # elements without an end tag


class Page(HTMLParser):
    """A page's elements; it fails where an end tag is not that of the last one open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str, name: str = "class") -> list[str]:
        """An attribute of every element of a kind."""
        return [attributes.get(name, "") for found, attributes in self.elements if found == tag]

    @property
    def data(self) -> list[list[list[list[str]]]]:
        """What plots say of rows: of every section and row, names and figures."""
        found: list[list[list[list[str]]]] = json.loads(self.texts["script"][0])
        return found


def rivals() -> Results:
    """Rows of every method."""
    rows = [
        replace(ROWS[1], plan=plan_of(method, 1, side), gflops=index + side, fps=20.0 - side)
        for index, method in enumerate(METHODS)
        for side in (3, 4, 5)
    ]
    return Results({"model": "x"}, "segmentation", rows=[ROWS[0], *rows])


def written(folder: Path, results: Results) -> Page:
    return Page(write_report(folder, [Section(results, folder)]).read_text())


@pytest.mark.parametrize("results", [SEGMENTATION, depth_results(), rivals(), Results({}, "depth")])
def test_the_page_is_well_formed_and_fetches_nothing(tmp_path: Path, results: Results) -> None:
    sheet = draw_sheet([[Panel("x", "t", "c", np.zeros((9, 9, 3), np.uint8))]], "before & after")
    (tmp_path / "picture.png").write_bytes(sheet)
    found = written(tmp_path, results)
    links = [
        value
        for _, attributes in found.elements
        for name, value in attributes.items()
        if name in ("src", "href", "data", "action", "srcset", "xlink:href")
    ]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?://|@import|url\(|fetch\(|import\(", text)
    assert "default-src 'none'" in text
    ids = [value for value in (a.get("id") for _, a in found.elements) if value]
    assert len(ids) == len(set(ids))
    uses = [a["href"] for tag, a in found.elements if tag == "use"]
    assert {use.removeprefix("#") for use in uses} <= set(ids)
    assert "before & after" in found.all("img", "alt")
    assert len(text) < 1_500_000


def test_every_row_is_in_the_table_in_the_plots_and_in_what_they_say(tmp_path: Path) -> None:
    results = rivals()
    found = written(tmp_path, results)
    rows = [value for value in found.all("tr", "data-row") if value]
    assert rows == [str(index) for index in range(len(results.rows))]
    (section,) = found.data
    assert [figures[0][1] for figures in section] == [
        text for text in found.texts["th"] if text.strip()
    ]
    points = [a["data-row"] for tag, a in found.elements if tag == "use" and "data-row" in a]
    assert sorted(points) == sorted(2 * rows)  # mIoU against GFLOPs and against FPS
    assert {name for name, _ in section[0]} >= {"plan", "GFLOPs", "FPS", "mIoU %"}


def test_hostile_names_stay_words(tmp_path: Path) -> None:
    folder = tmp_path / "<i>"
    results = Results(
        {"model": HOSTILE, "data": HOSTILE},
        "segmentation",
        HOSTILE,
        HOSTILE,
        [HOSTILE],
        ROWS,
        {"device": HOSTILE},
    )
    found = written(folder, results)
    assert len(found.all("script")) == 2
    assert found.all("b") == []
    shown = HOSTILE.replace("\udcff", "?")
    assert found.texts["h1"] == [shown]
    assert found.texts["code"].count(shown) == 1
    assert shown in found.texts["dd"]
    assert len(found.data[0]) == len(ROWS)


def test_what_figures_were_measured_with_is_said_and_how_they_count_is_said_once(
    tmp_path: Path,
) -> None:
    environment = {"device": "a machine", "torch": "2.15", "attention": "flash"}
    one = replace(SEGMENTATION, command="expedite sweep x", environment=environment)
    sections = [Section(one, tmp_path / "a"), Section(depth_results(), tmp_path / "b")]
    text = write_report(tmp_path, sections).read_text()
    assert text.count("GFLOPs count multiply-adds") == 1
    found = Page(text)
    assert found.texts["dt"][:4] == ["model", "device", "torch", "attention"]
    assert found.texts["dd"][1:4] == ["a machine", "2.15", "flash"]
    assert "expedite sweep x" in found.texts["code"]


def test_plots_are_written_beside_the_page(tmp_path: Path) -> None:
    write_report(tmp_path, [Section(SEGMENTATION, tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "accuracy_fps.png",
        "accuracy_gflops.png",
        "report.html",
        "report.md",
    ]


def test_without_accuracy_there_is_a_table_and_no_plot(tmp_path: Path) -> None:
    rows = [row_of(10, 10, None, alpha=None), row_of(5, 20, None)]
    found = written(tmp_path, Results({}, "segmentation", rows=rows))
    assert "chart" not in found.all("svg")
    assert "α1 4x4" in found.texts["th"]


def test_figures_that_are_no_numbers_leave_the_plots_alone(tmp_path: Path) -> None:
    rows = [*ROWS, replace(ROWS[1], plan=plan_of("pool", 1, 4), metrics={"miou": float("nan")})]
    found = written(tmp_path, Results({}, "segmentation", rows=rows))
    assert len(found.data[0]) == 6
    points = [a["data-row"] for tag, a in found.elements if tag == "use" and "data-row" in a]
    assert sorted(set(points)) == ["0", "1", "2", "3", "4"]


def test_two_sweeps_on_one_page(tmp_path: Path) -> None:
    sections = [
        Section(SEGMENTATION, tmp_path / "first"),
        Section(depth_results(), tmp_path / "second"),
    ]
    text = write_report(tmp_path, sections).read_text()
    found = Page(text)
    assert found.texts["h1"] == ["segmenter:x", "dpt:x"]
    assert found.texts["title"] == ["expedite: segmenter:x, dpt:x"]
    assert found.all("table") == ["sortable", "sortable"]
    assert found.all("tr").count("front") == 6
    assert "fewer GFLOPs and a higher mIoU" in text
    assert "fewer GFLOPs and a lower RMSE" in text
    for folder in ("first", "second"):
        assert (tmp_path / folder / "accuracy_fps.png").is_file()


def test_pictures_lie_in_the_folder_and_carry_their_titles(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "picture_of.png")
    sheet = draw_sheet([[Panel("x", "t", "c", np.zeros((9, 9, 3), np.uint8))]], "α2 on a scene")
    (tmp_path / "picture.png").write_bytes(sheet)
    found = written(tmp_path, SEGMENTATION)
    assert found.all("img", "alt") == ["α2 on a scene", "picture_of"]


def test_a_picture_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(ExpediteError, match=r"picture\.png cannot be read as an image"):
        page([Section(SEGMENTATION, tmp_path)])
