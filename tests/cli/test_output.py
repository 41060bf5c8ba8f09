"""What every command prints in any encoding, at any width, and of names that are not ours."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from expedite.cli import app, main
from expedite.evaluate.results import Results
from expedite.evaluate.table import label
from expedite.terminal.text import SUBSTITUTE
from tests.cli.conftest import PLAN, Run
from tests.evaluate.rows import ROWS

ENCODINGS = ["ascii", "cp1252", "cp437"]
Words = Callable[[str, Path], list[object]]


@pytest.fixture
def words(checkpoint: Path, data: Path, sweep: list[object], tmp_path: Path) -> Words:
    """The words of a command on small models, which writes into a folder."""
    model, image = f"segmenter:{checkpoint}", data / "images/val/a.png"
    quick = ("--seconds", 0, "--device", "cpu")
    Results({"model": "δ → 語"}, "segmentation", rows=list(ROWS)).save(tmp_path / "old")

    def command(name: str, out: Path) -> list[object]:
        others: dict[str, list[object]] = {
            "sweep": [*sweep, "--limit", 1, "--out", out / "sweep"],
            "tune": ["tune", model, "--images", data, "--gflops", 0.016, "--limit", 1, *quick],
            "bench": ["bench", model, *PLAN, *quick, "--batch-size", 2],
            "export": ["export", model, *PLAN, "--format", "torch-export", "--out", out / "m.pt2"],
            "visualize": ["visualize", model, image, *PLAN, "--out", out / "x.png"],
            "recipes": ["recipes", "dpt-hybrid-kitti"],
            "report": ["report", tmp_path / "old"],
            "compare": ["compare", tmp_path / "old", tmp_path / "old"],
        }
        return others.get(name) or [name, model, *PLAN]

    return command


def printed(words: list[object], encoding: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """What a command prints on streams of an encoding."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["expedite", *map(str, words)])
        written = (io.BytesIO(), io.BytesIO())
        for name, raw in zip(("stdout", "stderr"), written, strict=True):
            patch.setattr(sys, name, io.TextIOWrapper(raw, encoding, "strict", write_through=True))
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (0, 1)  # of a search that found nothing
        out, err = (raw.getvalue().decode(encoding) for raw in written)
    return out, err


def texts(printed: str) -> list[str]:
    """The words without rules, which are as long as what stands below them."""
    return [word for word in printed.split() if set(word) - {"─", "-"}]


@pytest.mark.parametrize("command", ["describe", "flops", "visualize", "recipes", "compare"])
def test_everything_arrives_in_any_encoding(
    command: str, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = words(command, tmp_path)
    out = printed(asked, "utf-8", monkeypatch)[0]
    for encoding in ENCODINGS:
        found = printed(asked, encoding, monkeypatch)[0]
        assert texts(found) == texts(out.encode(encoding, SUBSTITUTE).decode(encoding))


@pytest.mark.parametrize(
    "command",
    [
        "sweep",
        "bench",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("tune", "export")),
    ],
)
def test_what_was_measured_is_not_lost_to_an_encoding(
    command: str, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = printed(words(command, tmp_path), "cp1252", monkeypatch)
    sought = {"sweep": "alpha2 4x4", "bench": "blocks before alpha", "export": "images -> "}
    assert sought.get(command, "alpha") in out
    assert "loading segmenter:" in err
    assert "Error" not in err


@pytest.mark.parametrize("command", ["describe", "flops", "recipes", "compare", "bench"])
def test_json_is_json_in_any_encoding(
    command: str, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = printed([*words(command, tmp_path), "--json"], "ascii", monkeypatch)
    assert json.loads(out)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_help_is_the_same_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in app.registered_commands:
        asked: list[object] = [command.name, "--help"]
        plain = printed(asked, "utf-8", monkeypatch)[0]
        assert printed(asked, encoding, monkeypatch)[0] == plain


def test_reports_of_results_with_any_text(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = printed(words("report", tmp_path), "cp1252", monkeypatch)
    assert "delta -> \\u8a9e" in out
    page, _ = printed([*words("report", tmp_path), "--format", "html"], "cp1252", monkeypatch)
    assert "δ → 語" in page.encode("cp1252").decode("utf-8")  # as the page says of itself


def test_a_process_whose_output_is_no_utf8() -> None:
    asked = [sys.executable, "-m", "expedite", "recipes"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp437", "COLUMNS": "200"}
    done = subprocess.run(asked, capture_output=True, env=environment, check=True)
    assert "640x640" in done.stdout.decode("cp437")


@pytest.mark.parametrize("columns", ["40", "80", None])
def test_names_are_whole_at_any_width(
    columns: str | None, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    assert "mask2former-swin-l-coco-panoptic" in run("recipes").split()
    names = [option for option in run("sweep", "--help").split() if option.startswith("--")]
    assert {"--reduce-zero-label", "--reconstruct-at", "--multi-scale"} <= set(names)
    long = replace(ROWS[1], dtype="bfloat16", compile="max-autotune-no-cudagraphs")
    Results({"model": "x"}, "segmentation", rows=[ROWS[0], long]).save(tmp_path)
    text = run("compare", tmp_path, tmp_path)
    assert label(long) in text
    assert f"\n{label(long)}\n" in text or columns is None


HOSTILE = "[bold]a[/nonsense]\x1b[31m\x07"


def test_names_are_not_taken_for_markup(
    sweep: list[object], run: Run, refusal: Run, tmp_path: Path
) -> None:
    out = tmp_path / "[red]out[/blue]"
    text = run(*sweep, "--limit", 1, "--out", out)
    assert f"written: {out}/report.html" in text
    assert f"[/blue]/{HOSTILE[:6]}" in refusal("report", out / "[bold]")


def test_what_a_file_holds_does_not_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    results = Results({"model": HOSTILE}, "segmentation", rows=list(ROWS), command=HOSTILE)
    results.notes = [HOSTILE]
    results.save(tmp_path / "one")
    replace(results, request={"model": "x"}).save(tmp_path / "two")
    report = ["report", tmp_path / "one"]
    compare = ["compare", tmp_path / "one", tmp_path / "two"]
    for words in (report, [*report, "--format", "html"], compare):
        text = run(*words)
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\\x1b[31m\\x07" in text
