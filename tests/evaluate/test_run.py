"""A sweep that is stopped at any moment goes on where it was."""

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from expedite import ExpediteError
from expedite.evaluate import results as results_module
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.run import Request, run_sweep
from expedite.evaluate.sweep import Sweep
from expedite.evaluate.tasks import task_of
from expedite.measure.mode import Mode, jobs_of
from expedite.plan import Plan, make_plan
from expedite.terminal.status import Status
from tests.evaluate.test_sweep import loaded, samples

PLANS = [make_plan(1, 4), plan_of("tome+delta", 1, 4), make_plan(1, 4), make_plan(2, 4)]


def request(out: Path) -> Request:
    model = loaded()
    return Request(
        loaded=model,
        task=task_of(model),
        samples=samples(1),
        jobs=jobs_of(PLANS),
        out=out,
        identity={"model": "test"},
        command="",
        device=torch.device("cpu"),
        seconds=0.0,
    )


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "results.json").read_text())["rows"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["measuring", "writing results.json", "writing results.csv"])
def test_finished_rows_are_neither_lost_nor_repeated(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Plan] = []
    measure, save = Sweep.measure, results_module.replacing

    def interrupted(self: Sweep, plan: Plan, base: Any) -> Any:
        measured.append(plan)
        if moment == "measuring" and len(measured) == 2:
            raise KeyboardInterrupt
        return measure(self, plan, base)

    def failing(path: Path) -> Any:
        if len(measured) == 2 and moment.endswith(path.name):
            raise KeyboardInterrupt
        return save(path)

    monkeypatch.setattr(Sweep, "measure", interrupted)
    monkeypatch.setattr(results_module, "replacing", failing)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(request(tmp_path), Status(Console(file=io.StringIO()), ""))
    before = rows(tmp_path)
    assert len(before) == (3 if moment == "writing results.csv" else 2)
    monkeypatch.undo()
    found = run_sweep(request(tmp_path), Status(Console(file=io.StringIO()), ""))
    assert rows(tmp_path)[: len(before)] == before
    assert [row.plan for row in found.rows] == [None, PLANS[0], PLANS[1], PLANS[3]]
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "method", "", "expedite", "tome+delta", "expedite"
    ]  # fmt: skip


@pytest.mark.slow
def test_rows_of_every_mode_are_compared_within_it(tmp_path: Path) -> None:
    modes = [Mode("bfloat16"), Mode()]
    asked = replace(request(tmp_path), jobs=jobs_of(PLANS[:2], modes))
    found = run_sweep(asked, Status(Console(file=io.StringIO()), ""))
    assert [(row.plan, row.dtype) for row in found.rows] == [
        (plan, mode.dtype) for mode in modes for plan in (None, *PLANS[:2])
    ]
    for base in (found.rows[0], found.rows[3]):
        assert base.retention == base.fidelity["miou"] == 1
        assert found.base_of(base.mode) == base
    low, full = found.rows[1], found.rows[4]
    assert low.memory_mb < full.memory_mb
    assert "bfloat16" in found.setting
    assert "float32" in found.setting
    alone = run_sweep(request(tmp_path / "alone"), Status(Console(file=io.StringIO()), ""))
    assert (full.metrics, full.fidelity) == (alone.rows[1].metrics, alone.rows[1].fidelity)
    with (tmp_path / "results.csv").open() as file:
        lines = [*csv.DictReader(file)]
    assert [line["dtype"] for line in lines] == ["bfloat16"] * 3 + ["float32"] * 3
    again = run_sweep(replace(asked, jobs=asked.jobs[:1]), Status(Console(file=io.StringIO()), ""))
    assert again.rows == found.rows


@pytest.mark.skipif(sys.platform != "linux", reason="has no /proc, which takes nothing from root")
def test_nothing_is_measured_for_a_folder_that_takes_nothing() -> None:
    with pytest.raises(ExpediteError, match="nothing can be written to /proc "):
        run_sweep(request(Path("/proc/expedite/out")), Status(Console(file=io.StringIO()), ""))


@pytest.mark.slow
def test_a_table_for_spreadsheets_that_is_missing_is_written(tmp_path: Path) -> None:
    run_sweep(request(tmp_path), Status(Console(file=io.StringIO()), ""))
    before = rows(tmp_path)
    (tmp_path / "results.csv").unlink()
    run_sweep(request(tmp_path), Status(Console(file=io.StringIO()), ""))
    assert rows(tmp_path) == before
    assert (tmp_path / "results.csv").exists()


@pytest.mark.slow
def test_an_environment_that_changes_on_the_way_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_sweep(request(tmp_path), Status(Console(file=io.StringIO()), "")).environment
    assert before["dtype"] == "float32"
    assert before["image size"] == "32×32 px"
    assert before["torch"] == torch.__version__
    monkeypatch.setattr("expedite.measure.environment.version", lambda name: "99")
    unchanged = run_sweep(request(tmp_path), Status(Console(file=io.StringIO()), ""))
    assert unchanged.environment == before  # nothing was measured with them
    more = replace(request(tmp_path), jobs=jobs_of([*PLANS, make_plan(3, 4)]))
    after = run_sweep(more, Status(Console(file=io.StringIO()), "")).environment
    assert after["timm"] == f"{before['timm']}; then 99"
    assert after["torch"] == before["torch"]
