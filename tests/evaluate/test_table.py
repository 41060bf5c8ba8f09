import io
from dataclasses import replace

import pytest
from rich.console import Console

from expedite.evaluate.comparators import plan_of
from expedite.evaluate.results import Results
from expedite.evaluate.sweep import Row
from expedite.evaluate.table import columns, label, main_measures, pareto_front, terminal_table
from expedite.plan import Plan, Span, make_plan
from tests.evaluate.rows import ROWS, SEGMENTATION, depth_results


def terminal(results: Results) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(results))
    return console.export_text()


def test_modes_stand_in_labels_and_shares_are_within_them() -> None:
    rows = [Row(None, 1, 1, 10.0), Row(make_plan(4, 20), 1, 1, 5.0)]
    low = [Row(None, 1, 1, 8.0), Row(make_plan(4, 20), 1, 1, 2.0)]
    rows += [replace(row, dtype="bfloat16", compile="default") for row in low]
    assert [label(row) for row in rows] == [
        *("unpatched", "α4 20x20"),
        *("unpatched bfloat16 compile default", "α4 20x20 bfloat16 compile default"),
    ]
    share = columns(Results({}, "segmentation", rows=rows))["of base"]
    assert [share(row) for row in rows] == ["100%", "50%", "100%", "25%"]


@pytest.mark.parametrize("results", [SEGMENTATION, depth_results(), depth_results(labelled=False)])
def test_the_front_holds_what_nothing_beats(results: Results) -> None:
    rows = results.rows
    assert pareto_front(results) == [rows[4], rows[3], rows[1]]


def test_accuracy_counts_before_fidelity() -> None:
    def mains(*rows: Row) -> list[str]:
        return [m.title for m in main_measures(Results({}, "segmentation", rows=list(rows)))]

    full = Row(None, 1, 1, metrics={"miou": 0.5}, fidelity={"miou": 1.0})
    assert mains(full) == ["mIoU", "fidelity"]
    assert mains(replace(full, metrics={})) == ["fidelity"]
    assert mains(Row(None, 1, 1)) == []


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (None, "unpatched"),
        (make_plan(4, (15, 52)), "α4 15x52"),
        (make_plan(4, keep=0.25), "α4 keep 0.25"),
        (Plan((Span(2, 20), Span(6, 14))), "α2+6 20x20+14x14"),
        (make_plan(4, 15, beta=2, iterations=9), "α4 β2 15x15 iterations=9"),
        (plan_of("tome", 4, 15, log_mass=False), "tome α4 15x15 log_mass=False"),
    ],
)
def test_labels(plan: Plan | None, expected: str) -> None:
    assert label(Row(plan, 1, 1)) == expected


def test_the_table_shows_every_row() -> None:
    text = terminal(SEGMENTATION)
    assert "segmenter:x" in text
    assert "α2 6x6" in text
    assert "46.00" in text
    assert "…" not in text  # nothing is cut at 80 columns


def test_columns_of_segmentation() -> None:
    row = replace(ROWS[3], retention=0.92, fidelity={"miou": 0.875, "pixel_accuracy": 0.99})
    shown = columns(Results({}, "segmentation", rows=[ROWS[0], row]))
    texts = {name: text(row) for name, text in shown.items()}
    assert list(texts)[-3:] == ["mIoU %", "retention %", "fidelity %"]
    assert list(texts.values())[-3:] == ["46.00", "92.00", "87.50"]
    assert texts["of base"] == "50%"
    assert shown["fidelity %"](ROWS[0]) == ""


def test_columns_of_depth() -> None:
    results = depth_results()
    shown = columns(results)
    texts = [text(results.rows[3]) for text in shown.values()]
    accuracy = ["RMSE", "AbsRel", "δ<1.25 %", "retention %"]
    fidelity = ["fidelity RMSE", "fidelity AbsRel", "fidelity δ<1.25 %"]
    assert list(shown)[8:] == accuracy + fidelity
    assert texts[8:] == ["1.087", "0.109", "45.65", "92.00", "0.040", "0.004", "98.00"]
    text = terminal(results)
    assert "δ<1.25" in text
    assert "92.00" in text
    assert "fidelity" not in text
    assert "…" not in text


def test_without_labels_the_terminal_shows_fidelity() -> None:
    results = depth_results(labelled=False)
    assert list(columns(results))[8:] == [
        "fidelity RMSE",
        "fidelity AbsRel",
        "fidelity δ<1.25 %",
    ]
    text = terminal(results)
    assert "0.040" in text
    assert "retention" not in text
    assert "…" not in text
