import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from expedite.evaluate.report import Picture, Section, write_report
from expedite.evaluate.results import Results
from tests.evaluate.rows import ROWS, SEGMENTATION, depth_results, row_of


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(picture)
    request = {"model": "<b>model</b>"}
    results = Results(request, "segmentation", "expedite sweep", "a machine", ["a note"], ROWS)
    section = Section(results, tmp_path, [Picture("before & after", picture)])
    page = write_report(tmp_path, [section]).read_text()
    links = Links()
    links.feed(page)
    assert all(link.startswith(("data:", "#")) for link in links.found)
    assert not re.search(r"<script|@import|url\(http", page)
    assert "&lt;b&gt;model" in page
    for text in ("GFLOPs count multiply-adds", "a machine", "a note", "α2 6x6", "<svg"):
        assert text in page
    assert page.count('class="front"') == 3


def test_plots_are_written_beside_the_page(tmp_path: Path) -> None:
    write_report(tmp_path, [Section(SEGMENTATION, tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "accuracy_fps.png",
        "accuracy_gflops.png",
        "report.html",
    ]


def test_without_accuracy_there_is_a_table_and_no_plot(tmp_path: Path) -> None:
    rows = [row_of(10, 10, None, alpha=None), row_of(5, 20, None)]
    results = Results({}, "segmentation", rows=rows)
    page = write_report(tmp_path, [Section(results, tmp_path)]).read_text()
    assert "<svg" not in page
    assert "α1 4x4" in page


def test_two_sweeps_on_one_page(tmp_path: Path) -> None:
    sections = [
        Section(SEGMENTATION, tmp_path / "first"),
        Section(depth_results(), tmp_path / "second"),
    ]
    page = write_report(tmp_path, sections).read_text()
    assert page.index("segmenter:x</h1>") < page.index("dpt:x</h1>")
    assert "<title>expedite: segmenter:x, dpt:x</title>" in page
    assert page.count("<table>") == 2
    assert page.count('class="front"') == 6
    assert "fewer GFLOPs and a higher mIoU" in page
    assert "fewer GFLOPs and a lower RMSE" in page
    for folder in ("first", "second"):
        assert (tmp_path / folder / "accuracy_fps.png").is_file()
