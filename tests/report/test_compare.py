import io
from dataclasses import replace

import pytest
from rich.console import Console

from expedite import ExpediteError
from expedite.evaluate.results import Results
from expedite.report.compare import (
    compare,
    comparison_content,
    comparison_notes,
    comparison_page,
    comparison_table,
)
from tests.evaluate.rows import ROWS, SEGMENTATION, depth_results, row_of

OTHER = Results(
    {"model": "segmenter:y"},
    "segmentation",
    rows=[
        replace(ROWS[0], metrics={"miou": 0.52}),
        replace(ROWS[1], gflops=7.0, metrics={"miou": 0.49}),
        row_of(1, 40, 0.1, alpha=3, side=2),
    ],
)


def test_rows_of_the_same_plan_stand_side_by_side() -> None:
    found = compare(SEGMENTATION, OTHER)
    assert [(one.plan, two.gflops) for one, two in found.pairs] == [(None, 10), (ROWS[1].plan, 7)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table(found))
    text = console.export_text()
    assert "8.00 → 7.00" in text
    assert "50.00 → 49.00" in text
    assert text.count("-1.00") == 2
    content = comparison_content(found)
    assert content["rows"][0] == {
        "plan": "unpatched",
        "GFLOPs": [10, 10],
        "FPS": [10, 10],
        "speed-up": [1.0, 1.0],
        "memory MB": [0.0, 0.0],
        "mIoU %": [50.0, 52.0],
    }


def test_the_page_says_the_same_and_shows_names_as_they_are() -> None:
    one = replace(SEGMENTATION, request={"model": "<b>x"})
    page = comparison_page(compare(one, OTHER))
    assert "<h1>&lt;b&gt;x → segmenter:y</h1>" in page
    assert '<td class="lines">50.00 → 49.00\n-1.00</td>' in page
    assert "only in the second: α3 2x2" in page
    assert "src=" not in page  # it fetches nothing


def test_what_differs_and_what_stands_alone_is_said() -> None:
    found = compare(SEGMENTATION, OTHER)
    notes = comparison_notes(found)
    assert notes[0] == "model: segmenter:x → segmenter:y"
    assert notes[1] == "only in the first: α2 4x4, α1 5x5, α2 6x6"
    assert notes[2] == "only in the second: α3 2x2"


def test_other_libraries_are_said_and_what_was_asked_is_said_once() -> None:
    one = replace(
        SEGMENTATION,
        request={**SEGMENTATION.request, "image_size": [32, 32]},
        environment={"torch": "2.14", "image size": "32×32 px", "dtype": "float32"},
    )
    two = replace(
        SEGMENTATION,
        request={**SEGMENTATION.request, "image_size": [64, 64]},
        environment={"torch": "2.15", "image size": "64×64 px", "dtype": "float32"},
    )
    found = compare(one, two)
    notes = comparison_notes(found)
    assert notes[:2] == ["image_size: [32, 32] → [64, 64]", "torch: 2.14 → 2.15"]
    assert comparison_content(found)["environment"]["torch"] == ["2.14", "2.15"]
    assert compare(replace(one, environment={}), two).environment == ()


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ExpediteError, match="for segmentation was given with one for depth"):
        compare(SEGMENTATION, depth_results())
    with pytest.raises(ExpediteError, match="no plan in common"):
        compare(SEGMENTATION, Results({}, "segmentation", rows=[OTHER.rows[2]]))
