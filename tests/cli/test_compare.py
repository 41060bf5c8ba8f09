"""Two sweeps side by side."""

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_compare(sweep: list[object], run: Run, refusal: Run, tmp_path: Path) -> None:
    run(*sweep, "--limit", 1)
    other = tmp_path / "other"
    run(*sweep, "--limit", 2, "--out", other)
    page = tmp_path / "page.html"
    assert "images: 1 → 2" in run("compare", tmp_path / "out", other, "--out", page)
    assert "images: 1 → 2" in page.read_text("utf-8")
    assert "a .html file is due" in refusal("compare", other, other, "--out", tmp_path / "page")
    content = json.loads(run("compare", tmp_path / "out", other / "results.json", "--json"))
    assert {*content["differing"]} == {"images", "files"}
    assert content["differing"]["images"] == [1, 2]
    assert [row["plan"] for row in content["rows"]] == ["unpatched", "α1 4x4", "α2 4x4"]
    assert "is not there" in refusal("compare", tmp_path / "out", tmp_path / "nothing")
