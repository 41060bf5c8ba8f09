"""Reports of sweeps that were measured."""

from pathlib import Path

import pytest
import torch

from expedite.evaluate.results import Results
from tests.cli.conftest import Run
from tests.evaluate.rows import ROWS


def test_report_of_what_was_measured(sweep: list[object], run: Run, tmp_path: Path) -> None:
    run(*sweep)
    out = tmp_path / "out"
    text = run("report", out)
    assert text == (out / "report.md").read_text()
    assert f"--out {out}" in text
    assert f"| torch | {torch.__version__} |" in text
    assert run("report", out / "results.json", "--format", "html").startswith("<!doctype html>")
    assert run("report", out, out, "--format", "html", "--out", tmp_path / "page.html") == ""
    page = (tmp_path / "page.html").read_text()
    assert page.count("<h1>") == page.count("data:image/webp") == 2


@pytest.mark.parametrize("command", ["report", "compare"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_results(command: str, share: float, refusal: Run, tmp_path: Path) -> None:
    Results({"model": "x"}, "segmentation", rows=list(ROWS)).save(tmp_path)
    path = tmp_path / "results.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    words = [tmp_path] * (2 if command == "compare" else 1)
    assert f"{path} does not hold the rows of a sweep" in refusal(command, *words)


def test_impossible_report(refusal: Run, tmp_path: Path) -> None:
    assert "is not there" in refusal("report", tmp_path)
    Results({"model": "x"}, "segmentation", rows=list(ROWS)).save(tmp_path)
    assert "the format 'pdf' was asked" in refusal("report", tmp_path, "--format", "pdf")
    nowhere = tmp_path / "nowhere/report.md"
    text = refusal("report", tmp_path, "--out", nowhere)
    assert f"{nowhere} cannot be written: No such file or directory" in text
