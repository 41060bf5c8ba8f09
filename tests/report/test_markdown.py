import re
from dataclasses import replace
from importlib.metadata import version

import pytest
import timm
import torch

from expedite.evaluate.results import Results
from expedite.report.markdown import escaped, fenced, markdown, table
from expedite.report.notes import notes
from tests.evaluate.rows import SEGMENTATION, depth_results

HOSTILE = "a|b <script>`*_~#$x$ [l](u)\nc\\"


def cells(line: str) -> list[str]:
    """The cells of a line, parted where GitHub parts them."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("results", [SEGMENTATION, depth_results(), depth_results(labelled=False)])
def test_every_line_of_the_table_has_as_many_cells(results: Results) -> None:
    lines = [cells(line) for line in table(results).splitlines()]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines) == 2 + len(results.rows)
    assert lines[1] == [":--", *["--:"] * (len(lines[0]) - 1)]
    assert [line[0].strip("*") for line in lines[2:]] == [
        "unpatched",
        "α1 4x4",
        "α2 4x4",
        "α1 5x5",
        "α2 6x6",
    ]
    bold = [line[0] for line in lines if line[0].startswith("**")]
    assert bold == ["**α1 4x4**", "**α1 5x5**", "**α2 6x6**"]


def test_the_command_and_the_environment_are_said_and_counting_once() -> None:
    one = replace(
        SEGMENTATION, command="expedite sweep 'a b'", environment={"torch": "2.15", "dtype": "f"}
    )
    text = markdown([one, depth_results()])
    assert text.count("GFLOPs count multiply-adds") == 1
    assert "```sh\nexpedite sweep 'a b'\n```" in text
    assert "| torch | 2.15 |" in text
    assert text.startswith("### segmenter:x\n\n| plan |")
    assert "### dpt:x" in text
    assert text.endswith(".\n")


def test_hostile_names_stay_words_in_their_cells() -> None:
    results = replace(SEGMENTATION, request={"model": HOSTILE}, notes=[HOSTILE], command=HOSTILE)
    text = markdown([results])
    outside = text.replace(HOSTILE, "")  # of the fence
    assert "<script>" not in outside
    assert cells(next(line for line in outside.splitlines() if line.startswith("| model")))[0] == (
        "model"
    )
    (row,) = (line for line in outside.splitlines() if line.startswith("| model"))
    assert len(cells(row)) == 2


def test_words_are_shown_as_they_are() -> None:
    assert escaped("a|b\n*c*") == r"a\|b \*c\*"
    assert escaped("<&>") == "&lt;&amp;&gt;"
    assert fenced("a ``` b", "sh") == "````sh\na ``` b\n````"


def test_a_report_says_that_libraries_are_others_here() -> None:
    measured = replace(SEGMENTATION, environment={"torch": "1.0", "timm": timm.__version__})
    said = f"Made with torch 1.0 ({version('torch')} here): figures can differ."
    assert escaped(said) in markdown([measured])
    assert said in notes(measured, "Shaded")
    now = replace(SEGMENTATION, environment={"torch": torch.__version__})
    assert "Made with" not in markdown([now])
