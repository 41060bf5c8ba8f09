"""What a sweep prints, writes, goes on from and refuses."""

import csv
import json
import os
import signal
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch

from expedite.evaluate.exclusive import exclusive
from expedite.evaluate.sweep import Sweep
from expedite.models.segmenter import Segmenter
from expedite.plan import Plan
from tests.cli.conftest import Execute, Run


def test_sweep_writes_tables_plots_and_a_page(
    sweep: list[object], run: Run, tmp_path: Path
) -> None:
    printed = run(*sweep)
    assert "α2 4x4" in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "results.csv",
        "results.json",
        "report.html",
        "report.md",
        "picture_expedite.png",
        "accuracy_gflops.png",
        "accuracy_fps.png",
    }
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert [row["plan"] and row["plan"]["spans"][0]["alpha"] for row in rows] == [None, 1, 2]
    for row in rows:
        figures = (row["gflops"], row["fps"], row["memory_mb"], row["metrics"]["miou"])
        assert min(*figures, row["fidelity"]["miou"]) > 0
    assert rows[0]["retention"] == rows[0]["fidelity"]["miou"] == 1
    assert len((tmp_path / "out/results.csv").read_text().splitlines()) == 4


def test_sweep_goes_on_where_it_stopped(sweep: list[object], run: Run, tmp_path: Path) -> None:
    run(*sweep)
    path = tmp_path / "out/results.json"
    content = json.loads(path.read_text())
    dropped = content["rows"].pop()
    path.write_text(json.dumps(content))
    run(*sweep)
    rows = json.loads(path.read_text())["rows"]
    assert rows[:-1] == content["rows"]  # times included: nothing was measured again
    for name in ("plan", "metrics", "fidelity", "retention"):
        assert rows[-1][name] == dropped[name]


def test_sweep_does_not_mix_with_another(
    sweep: list[object], run: Run, refusal: Run, tmp_path: Path
) -> None:
    run(*sweep)
    before = (tmp_path / "out/results.json").read_text()
    assert "another images" in refusal(*sweep, "--limit", 2)
    assert (tmp_path / "out/results.json").read_text() == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("model/checkpoint.pth", "another weights"),
        ("model/variant.yml", "another description"),
        ("data/images/val/b.png", "another files"),
        ("data/annotations/val/b.png", "another files"),
    ],
)
def test_sweep_does_not_go_on_with_other_files_under_the_same_names(
    changed: str, said: str, sweep: list[object], run: Run, refusal: Run, tmp_path: Path
) -> None:
    run(*sweep)
    path = tmp_path / changed
    if path.name == "checkpoint.pth":
        state = torch.load(path)
        state["model"]["decoder.mask_norm.bias"] += 1
        torch.save(state, path)
    elif path.name == "variant.yml":
        path.write_text(path.read_text().replace("window_stride: 16", "window_stride: 8"))
    else:
        os.utime(path, ns=(0, 0))
    assert said in refusal(*sweep)


def test_two_sweeps_into_one_folder_exclude_each_other(
    sweep: list[object], run: Run, refusal: Run, tmp_path: Path
) -> None:
    with exclusive(tmp_path / "out"):
        assert f"another sweep is writing to {tmp_path}/out" in refusal(*sweep)
    run(*sweep)


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_a_plan_whose_answers_are_no_numbers_is_never_recommended(
    sweep: list[object], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Sweep.measure

    def measured(self: Sweep, plan: Plan, base: Any) -> Any:
        if plan.spans[0].alpha == 1:  # the faster one
            monkeypatch.setattr(
                Segmenter, "forward", lambda model, images: whole(model, images) * nan
            )
        row = replace(measure(self, plan, base), speedup=3.0 - plan.spans[0].alpha / 10)
        monkeypatch.setattr(Segmenter, "forward", whole)
        return row

    whole = Segmenter.forward
    monkeypatch.setattr(Sweep, "measure", measured)
    content = json.loads(run(*sweep, "--json"), parse_constant=no_constant)
    assert content["rows"][1]["fidelity_miou"] is None
    assert content["recommended"]["alpha"] == "2"
    text = (tmp_path / "out/results.json").read_text()
    notes = json.loads(text, parse_constant=no_constant)["notes"]
    assert "Some figures are no numbers (nan), so nothing is said for: α1 4x4." in notes
    again = json.loads(run(*sweep, "--json"), parse_constant=no_constant)
    assert again["rows"] == content["rows"]  # read back, and not measured again
    assert "nan" in run("report", tmp_path / "out")


def test_sweep_measures_nothing_if_one_of_its_plans_is_impossible(
    sweep: list[object], refusal: Run, tmp_path: Path
) -> None:
    words = ["4,9" if word == 4 else word for word in sweep]  # 9×9 clusters of 8×8 tokens
    assert "9×9" in refusal(*words)
    assert not (tmp_path / "out").exists()


def test_random_weights_give_no_accuracy(data: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ("--image-size", 64, "--classes", 4)
    model = "segmenter:vit_tiny_patch16_384"
    quick = ("--seconds", 0, "--device", "cpu")
    run(
        "sweep",
        model,
        *small,
        "--data",
        data,
        "--out",
        out,
        "--alpha",
        3,
        "--keep",
        0.3,
        "--set",
        "iterations=2",
        *quick,
    )
    content = json.loads((out / "results.json").read_text())
    assert "The weights are random" in content["notes"][0]
    assert all(row["metrics"] == row["fidelity"] == {} for row in content["rows"])


def test_sweep_of_rival_methods(sweep: list[object], run: Run, tmp_path: Path) -> None:
    words = [*sweep, "--method", "pool,tome,downsample", "--limit", 1, "--json"]
    content = json.loads(run(*words))
    methods = [row["method"] for row in content["rows"]]
    assert methods == ["", "pool", "pool", "tome", "tome", "downsample"]
    assert set(content) == {"report", "setting", "rows", "recommended", "code", "verdict"}
    assert content["verdict"].endswith(".")


def test_sweep_of_plans_in_a_file(
    sweep: list[object], run: Run, refusal: Run, tmp_path: Path
) -> None:
    path = tmp_path / "plans.yml"
    path.write_text("- {method: [paper, evit], alpha: 1, clusters: 5}\n")
    place = sweep.index("--alpha")
    printed = run(*sweep[:place], *sweep[place + 4 :], "--plans", path, "--limit", 1)
    assert "paper α1" in printed
    assert "evit α1" in printed
    assert "given with other plans" in refusal(*sweep, "--plans", path)
    assert "neither --alpha nor --plans" in refusal(*sweep[:place], *sweep[place + 4 :])


def test_sweep_in_several_modes(sweep: list[object], run: Run, tmp_path: Path) -> None:
    content = json.loads(run(*sweep, "--dtype", "float32,bfloat16", "--limit", 1, "--json"))
    found = [(row["method"], row["dtype"], row["compile"]) for row in content["rows"]]
    modes = [("float32", "none"), ("bfloat16", "none")]
    assert found == [(name, *mode) for mode in modes for name in ("", "expedite", "expedite")]
    assert all(name in content["setting"] for name in ("float32", "bfloat16"))
    assert "α2 4x4 bfloat16" in (tmp_path / "out/report.html").read_text()


def test_sweep_at_several_sizes(
    sweep: list[object], depth_sweep: list[object], run: Run, refusal: Run, tmp_path: Path
) -> None:
    run(*sweep, "--limit", 1, "--multi-scale")
    content = json.loads((tmp_path / "out/results.json").read_text())
    assert "0.5, 0.75, 1.0, 1.25, 1.5, 1.75 times the size" in content["notes"][0]
    assert "of one image at the model's own size" in content["notes"][0]
    assert content["rows"][0]["gflops"] < 0.1
    assert "another protocol" in refusal(*sweep, "--limit", 1)
    text = refusal(*depth_sweep, "--multi-scale")
    assert "is for depth, whose published protocols look at an image once" in text


def test_an_interrupted_sweep_keeps_its_rows(
    sweep: list[object], execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Sweep.measure

    def interrupted(self: Sweep, plan: Plan, base: Any) -> Any:
        if plan.spans[0].alpha == 2:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does
        return measure(self, plan, base)

    monkeypatch.setattr(Sweep, "measure", interrupted)
    code, out, err = execute(*sweep)
    assert (code, out) == (130, "")
    assert err.endswith(
        f"\nstopped: what was measured is in {tmp_path}/out, and the same command goes on from "
        "there\n"
    )
    assert len(json.loads((tmp_path / "out/results.json").read_text())["rows"]) == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "results.csv"}


def test_sweep_of_a_depth_model(depth_sweep: list[object], run: Run, tmp_path: Path) -> None:
    printed = run(*depth_sweep)
    assert "AbsRel" in printed
    content = json.loads((tmp_path / "out/results.json").read_text())
    base, row = content["rows"]
    assert content["task"] == "depth"
    assert base["metrics"]["rmse"] > 0 < row["fidelity"]["rmse"]
    assert row["retention"] == base["metrics"]["rmse"] / row["metrics"]["rmse"]
    assert "from 0.001 to 80 m" in content["notes"][0]
    with (tmp_path / "out/results.csv").open() as file:
        _, line = csv.DictReader(file)
    assert float(line["abs_rel"]) == row["metrics"]["abs_rel"]
    assert float(line["fidelity_delta1"]) == row["fidelity"]["delta1"]
    run(*depth_sweep)
    again = json.loads((tmp_path / "out/results.json").read_text())
    assert again == content  # times included: nothing was measured again


def test_the_protocol_of_depth_is_part_of_a_sweep(
    depth_sweep: list[object], run: Run, refusal: Run, tmp_path: Path
) -> None:
    run(*depth_sweep)
    assert "another protocol" in refusal(*depth_sweep, "--max-depth", 10)
    assert "another rule" in refusal(*depth_sweep, "--depth-scale", 256)
    run(*depth_sweep, "--max-depth", 10, "--out", tmp_path / "near")
    notes = json.loads((tmp_path / "near/results.json").read_text())["notes"]
    assert "from 0.001 to 10 m" in notes[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--split", "test"), "images/test"),
        (("--limit", "0"), "limit"),
        (("--device", "abacus"), "abacus"),
        (("--dtype", "int8"), "int8"),
        (("--dtype", "float32,,"), "the list 'float32,,' was given"),
        (("--compile", "fast"), "compiling in mode 'fast' was asked; none, default, "),
        (("--classes", "3"), "3 classes were asked"),
        (("--classes", "0"), "0 classes were asked"),
        (("--image-size", "1x2x3"), "the size '1x2x3' was given"),
        (("--task", "dreaming"), "the task 'dreaming' was asked; there are panoptic, seg"),
    ],
)
def test_impossible_sweep(
    words: tuple[str, ...], sentence: str, sweep: list[Any], refusal: Run, tmp_path: Path
) -> None:
    assert sentence in refusal(*sweep, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--depth-scale", "256"), "is for segmentation"),
        (("--max-depth", "10"), "gives no depth"),
    ],
)
def test_options_of_depth_for_classes(
    words: tuple[str, ...], sentence: str, sweep: list[Any], refusal: Run
) -> None:
    text = refusal(*sweep, *words)
    assert f"{words[0]} was given" in text
    assert sentence in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--ignore-index", "11"), "--ignore-index was given; "),
        (("--reduce-zero-label",), "is for depth"),
        (("--depth-scale", "0"), "a depth scale of 0.0 was asked"),
        (("--max-depth", "-1"), "to -1.0 m was asked"),
    ],
)
def test_impossible_sweep_of_depth(
    words: tuple[str, ...],
    sentence: str,
    depth_sweep: list[Any],
    refusal: Run,
    tmp_path: Path,
) -> None:
    assert sentence in refusal(*depth_sweep, *words)
    assert not (tmp_path / "out").exists()


def test_negative_seconds(sweep: list[object], refusal: Run, tmp_path: Path) -> None:
    assert "-1.0 seconds" in refusal(*sweep, "--seconds", "-1")
    assert list(tmp_path.glob("out/*")) == []


def test_results_that_are_none(sweep: list[object], refusal: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/results.json").write_text("{")
    assert "does not hold the rows of a sweep" in refusal(*sweep)


def test_a_folder_that_cannot_be_written(sweep: list[object], refusal: Run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    assert str(tmp_path / "out") in refusal(*sweep)
    text = refusal(*sweep, "--out", "/proc/expedite")
    assert "/proc/expedite was to be written, and nothing can be written to /proc (" in text


def test_a_disk_that_gets_full(sweep: list[object], run: Run, refusal: Run, tmp_path: Path) -> None:
    run(*sweep, "--limit", 1)
    before = (tmp_path / "out/results.json").read_text()
    more = ["1,2,3" if word == "1,2" else word for word in sweep]
    (tmp_path / "out/.results.json.partial").symlink_to("/dev/full")
    text = refusal(*more, "--limit", 1)
    assert "results.json cannot be written: No space left on device; make room" in text
    assert (tmp_path / "out/results.json").read_text() == before
    run(*more, "--limit", 1)
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert rows[:-1] == json.loads(before)["rows"]
