"""The commands as a person types them: what they print, write and refuse."""

import csv
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from expedite.cli import main
from expedite.evaluate.exclusive import exclusive
from expedite.evaluate.results import Results, read_results
from expedite.evaluate.sweep import Sweep
from expedite.loading import load_model
from expedite.measure.parts import PARTS
from expedite.models.segmenter import Segmenter
from expedite.models.segmenter_files import Preprocessing, save_segmenter
from expedite.plan import Plan, make_plan
from expedite.recipes import COUNTED_WITH, RECIPES, Recipe, Row, find_recipe
from expedite.recipes.recipe import paper
from expedite.scenes.scenes import write_scenes
from expedite.version import __version__
from tests.evaluate.rows import ROWS
from tests.hosts import segmenter

Run = Callable[..., str]
Execute = Callable[..., tuple[Any, str, str]]
PLAN = ("--alpha", "1", "--clusters", "4")


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Execute:
    """Runs a command; returns its exit code and what it printed, out and err."""

    def command(*words: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["expedite", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return command


@pytest.fixture
def run(execute: Execute) -> Run:
    """Runs a command; returns what it printed."""

    def command(*words: object) -> str:
        code, out, err = execute(*words)
        assert code == 0, err
        return out

    return command


@pytest.fixture
def refusal(execute: Execute) -> Run:
    """Runs a command that cannot be done; returns its one sentence."""

    def command(*words: object, started: bool = False) -> str:
        code, out, err = execute(*words)
        assert code == 2
        assert started or out == ""  # a sweep that has begun shows its table
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return command


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk with no more room, larger files cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    preprocessing = Preprocessing("vit", 32, 32, 16, "camvid")
    return save_segmenter(segmenter(), preprocessing, "vit_64x4_patch4_32", tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for kind in ("images", "annotations"):
        (root / kind / "val").mkdir(parents=True)
    for name in ("a", "b", "c"):
        pixels = rng.integers(0, 255, (36, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/val/{name}.png")
        labels = rng.integers(0, 5, (36, 48), dtype=np.uint8)
        Image.fromarray(labels).save(root / f"annotations/val/{name}.png")
    return root


@pytest.fixture
def sweep(checkpoint: Path, data: Path, tmp_path: Path) -> list[object]:
    """The words of a small sweep into tmp_path/out."""
    model, out = f"segmenter:{checkpoint}", tmp_path / "out"
    quick = ["--seconds", "0", "--device", "cpu"]
    return ["sweep", model, "--data", data, "--out", out, "--alpha", "1,2", "--clusters", 4, *quick]


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


@pytest.fixture
def depth_sweep(tmp_path: Path) -> list[object]:
    """The words of a sweep of a depth model over two scenes into tmp_path/out."""
    (tmp_path / "mine.py").write_text(
        "from tests.hosts import depth_vit\n\n\ndef net():\n    model = depth_vit()\n"
        '    model.pretrained_cfg = {"input_size": (3, 32, 32), "task": "depth"}\n'
        "    return model\n"
    )
    write_scenes(tmp_path / "scenes", "val", 2, (32, 48))
    words = ["--data", tmp_path / "scenes", "--out", tmp_path / "out", *PLAN]
    return ["sweep", f"{tmp_path}/mine.py:net", *words, "--seconds", "0", "--device", "cpu"]


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


def test_a_recipe_brings_its_own_plans(
    data: Path, run: Run, refusal: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One command for all of its rows, with a published file of weights."""
    known = find_recipe("segmenter-vit-l16-ade20k")
    plans = [paper(3, 6, reconstruct_at="head", k=20), paper(2, 5, reconstruct_at="head", k=20)]
    rows = (known.rows[0], *(Row(plan, None, None, None) for plan in plans))
    small = replace(known, model="segmenter:vit_tiny_patch16_384", image_size=(96, 96), rows=rows)
    monkeypatch.setitem(RECIPES, "small", replace(small, windows=(96, 96), classes=5))
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": load_model("small").model.state_dict()}, path)
    words = ["sweep", "small", "--data", data, "--seconds", 0, "--device", "cpu", "--limit", 1]
    run(*words, "--checkpoint", path, "--out", tmp_path / "out")
    content = json.loads((tmp_path / "out/results.json").read_text())
    _, *found = read_results(tmp_path / "out").rows
    assert [row.plan for row in found] == plans
    assert all(row["plan"]["temperature"] == 50 for row in content["rows"][1:])
    assert content["request"]["rule"] == {"ignore_index": 255, "reduce_zero_label": True}
    assert all(row["metrics"]["miou"] > 0 for row in content["rows"])
    assert "neither --clusters nor" in refusal(*words, "--out", tmp_path / "no", "--alpha", 3)


def test_compare(sweep: list[object], run: Run, refusal: Run, tmp_path: Path) -> None:
    run(*sweep, "--limit", 1)
    other = tmp_path / "other"
    run(*sweep, "--limit", 2, "--out", other)
    assert "images: 1 → 2" in run("compare", tmp_path / "out", other)
    content = json.loads(run("compare", tmp_path / "out", other / "results.json", "--json"))
    assert {*content["differing"]} == {"images", "files"}
    assert content["differing"]["images"] == [1, 2]
    assert [row["plan"] for row in content["rows"]] == ["unpatched", "α1 4x4", "α2 4x4"]
    assert "is not there" in refusal("compare", tmp_path / "out", tmp_path / "nothing")


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


def test_visualize_a_model_with_weights(checkpoint: Path, data: Path, run: Run) -> None:
    model, image, out = f"segmenter:{checkpoint}", data / "images/val/a.png", data / "pictures"
    printed = run("visualize", model, image, *PLAN, "--out", out, "--device", "cpu")
    assert "blocks 2 to 4 run on 4×4 clusters of 8×8 tokens; tokens behind them are" in printed
    assert len(list(out.iterdir())) == 8
    words = ("--alpha", "1+2", "--clusters", "6+3", "--set", "k=2", "--method", "paper", "--json")
    content = json.loads(run("visualize", model, image, *words, "--out", data / "one.png"))
    assert [span["blocks"] for span in content["spans"]] == [[2, 2], [3, 4]]
    assert content["plan"]["k"] == 2
    assert content["written"] == [str(data / "one.png")]
    assert content["notes"] == []


def test_visualize_without_an_image_and_without_weights(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    words = ("--alpha", 4, "--clusters", 3, "--image-size", 64, "--classes", 3)
    printed = run("visualize", "segmenter:vit_tiny_patch16_384", *words, "--out", out)
    assert "The weights are random" in printed
    assert "off on average" not in printed
    with Image.open(out) as picture:
        assert "a generated scene" in picture.info["Title"]


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
    assert code == 130
    assert out == (
        f"stopped: what was measured is in {tmp_path}/out, and the same command goes on from "
        "there\n"
    )
    assert err == ""
    assert len(json.loads((tmp_path / "out/results.json").read_text())["rows"]) == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "results.csv"}


def test_tune(checkpoint: Path, data: Path, execute: Execute, refusal: Run) -> None:
    quick = ("--images", data, "--seconds", 0, "--limit", 1, "--device", "cpu")
    model = f"segmenter:{checkpoint}"
    code, out, err = execute("tune", model, *quick, "--gflops", 0.016, "--json")
    content = json.loads(out)
    assert code == (0 if content["plan"] else 1), err  # so small a model is not always faster
    assert set(content) == {"setting", "trials", "plan", "code", "verdict"}
    assert all(trial["gflops"] < 0.02 for trial in content["trials"])
    code, out, _ = execute("tune", model, *quick, "--gflops", 0.001)
    assert code == 1
    assert "no plan meets it" in out
    assert "no budget was asked" in refusal("tune", model, *quick)
    assert "weights are random" in refusal(
        "tune", "timm:vit_tiny_patch16_224", *quick, "--speedup", 1.5
    )


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


def test_describe_says_what_a_plan_leaves(checkpoint: Path, run: Run) -> None:
    model = f"segmenter:{checkpoint}"
    assert "8×8" in run("describe", model)
    content = json.loads(run("describe", model, *PLAN, "--json"))
    assert content["model"] == model
    assert content["grid"] == [8, 8]
    assert content["kept"] == [[4, 4]]


def test_flops_prints_one_object(checkpoint: Path, run: Run) -> None:
    content = json.loads(run("flops", f"segmenter:{checkpoint}", *PLAN, "--json"))
    assert set(content) == {"model", "image_size", "plan", "gflops", "unsupported_ops"}
    gflops = content["gflops"]
    assert set(gflops) == {"base", "patched", "operators", "ratio"}
    assert gflops["ratio"] == gflops["patched"] / gflops["base"]
    assert 0 < gflops["operators"] < gflops["patched"]
    assert content["image_size"] == [32, 32]
    assert content["unsupported_ops"] == {}


def test_flops_of_the_unpatched_model_alone(run: Run) -> None:
    text = run("flops", "timm:vit_tiny_patch16_224")
    assert text.startswith("unpatched 1.3 GFLOPs (multiply-adds)")
    assert "patched " not in text.removeprefix("unpatched")


def test_settings_of_the_plan_reach_it(checkpoint: Path, run: Run) -> None:
    words = ("flops", f"segmenter:{checkpoint}", *PLAN, "--set", "iterations=2", "--json")
    assert json.loads(run(*words))["plan"]["iterations"] == 2


def test_bench_times_both_in_turn(checkpoint: Path, run: Run) -> None:
    quick = ("--seconds", 0, "--batch-size", 3, "--device", "cpu", "--json")
    content = json.loads(run("bench", f"segmenter:{checkpoint}", *PLAN, *quick))
    assert content["throughput"]["batch_size"] == 3
    for figures in (content["latency"], content["throughput"]):
        assert figures["base_fps"] > 0 < figures["patched_fps"]
        assert figures["pairs"] >= 2
        lower, upper = figures["speedup_quartiles"]
        assert lower <= figures["speedup"] <= upper
    assert content["setting"]["threads"] == torch.get_num_threads()


def test_bench_says_where_the_time_goes_and_what_does_not_pay(
    checkpoint: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("bench", f"segmenter:{checkpoint}", *PLAN, "--seconds", 0, "--device", "cpu")
    parts = json.loads(run(*words, "--json"))["throughput"]["parts"]
    assert tuple(parts["seconds"]) == PARTS
    assert parts["share"] == pytest.approx(sum(parts["seconds"].values()) / parts["whole"])
    monkeypatch.setattr("expedite.cli.bench.LEAST_SPEEDUP", 1e9)
    text = run(*words, "--batch-size", 3)
    assert "At batch 3 this plan does not pay on this machine" in text
    for part in ("blocks before α", "clustering", "reconstruction", "all parts, of a call"):
        assert len(re.findall(rf"^{part} .*%.*%$", text, re.MULTILINE)) == 1
    monkeypatch.setattr("expedite.cli.bench.LEAST_SPEEDUP", 0)
    assert "does not pay" not in run(*words)


def test_bench_of_compiled_models(
    checkpoint: Path, run: Run, refusal: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("bench", f"segmenter:{checkpoint}", *PLAN, "--seconds", 0, "--device", "cpu")
    assert "compiling in mode 'faster' was asked" in refusal(*words, "--compile", "faster")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    text = run(*words, "--compile", "default", "--batch-size", 2)
    assert "compile default" in text
    assert "cannot be told of compiled code" in text


def test_export(checkpoint: Path, run: Run, refusal: Run, tmp_path: Path) -> None:
    words = ("export", f"segmenter:{checkpoint}", "--format", "torch-export", "--out")
    text = run(
        *words, tmp_path / "model.pt2", "--alpha", 2, "--clusters", "3x5", "--set", "iterations=2"
    )
    assert len(re.findall(r"batch [13]: [13] of [13] images agree", text)) == 2
    content = json.loads(run(*words, tmp_path / "plain.pt2", "--json"))
    assert content["plan"] is None
    assert (content["path"], content["data"]) == (str(tmp_path / "plain.pt2"), None)
    pixels = torch.randn(2, 3, 32, 32)
    plain, patched = (
        torch.export.load(tmp_path / f"{name}.pt2").module()(pixels) for name in ("plain", "model")
    )
    assert plain.shape == patched.shape
    assert not torch.allclose(plain, patched)
    assert "end in .pt2" in refusal(*words, tmp_path / "model.onnx")
    assert "the format 'tensorrt'" in refusal(*words[:2], "--format", "tensorrt", *words[4:], "x")
    assert "a plan was asked without --alpha" in refusal(*words, "x.pt2", "--clusters", 4)


def test_a_batch_of_none_is_refused(checkpoint: Path, execute: Execute) -> None:
    code, out, err = execute("bench", f"segmenter:{checkpoint}", *PLAN, "--batch-size", 0)
    assert (code, out) == (2, "")
    assert "--batch-size" in err


def test_recipes_by_name(run: Run, refusal: Run) -> None:
    assert all(name in run("recipes") for name in ("swag-vit-h14", "sam-vit-h"))
    assert "443.84" in run("recipes", "segmenter-vit-l16-ade20k")
    (found,) = json.loads(run("recipes", "dpt-hybrid-kitti", "--json"))["recipes"]
    assert (found["image_size"], found["flops_per_multiply_add"]) == ([352, 1216], 2)
    assert found["rows"][2]["plan"]["spans"][0]["alpha"] == 5
    assert "the recipe 'swin' was asked" in refusal("recipes", "swin")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe that is counted in no time; the patched row's count is wrong."""
    small = ("tiny", "timm:vit_tiny_patch16_224", (224, 224), 10, "", "", "")
    rows = (Row(None, 1.26, None, None), Row(make_plan(6, 7), 1.26, None, None))
    monkeypatch.setitem(RECIPES, "tiny", Recipe(*small, rows=rows))
    return RECIPES["tiny"]


def test_recipes_are_checked(
    tiny: Recipe, execute: Execute, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = execute("recipes", "--check", "tiny")
    assert (code, err) == (1, "")
    assert out.count("FAILS") == 1
    code, out, _ = execute("recipes", "--check", "tiny", "--json")
    assert code == 1
    assert [check["fails"] for check in json.loads(out)["checks"]] == [False, True]
    monkeypatch.setitem(RECIPES, "tiny", replace(tiny, rows=tiny.rows[:1]))
    assert "FAILS" not in run("recipes", "tiny", "--check")


def test_a_check_of_recipes_says_when_libraries_are_others(
    tiny: Recipe, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COUNTED_WITH, "timm", "0.1")
    said = f"Made with timm 0.1 ({timm.__version__} here): figures can differ."
    assert said in execute("recipes", "--check", "tiny")[1]
    assert json.loads(execute("recipes", "--check", "tiny", "--json")[1])["notes"] == [said]


def test_a_recipe_is_a_model(tiny: Recipe, run: Run, tmp_path: Path) -> None:
    content = json.loads(run("flops", "tiny", "--json"))
    assert content["image_size"] == [224, 224]
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": load_model("tiny").model.state_dict()}, path)
    assert "12 blocks" in run("describe", "tiny", "--checkpoint", path)


def test_a_factory_of_ones_own(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import tests.hosts\n\n\ndef small():\n    return tests.hosts.timm_vit()\n")
    text = run("describe", f"{file}:small", "--image-size", 32)
    assert "VisionTransformer" in text


def test_module_and_script_are_the_same(checkpoint: Path) -> None:
    words = [sys.executable, "-m", "expedite", "describe", f"segmenter:{checkpoint}", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["grid"] == [8, 8]
    bad = subprocess.run(
        [sys.executable, "-m", "expedite", "describe", "segmenter:nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: 'segmenter:nothing' was asked")
    assert "Traceback" not in bad.stderr


def test_version(run: Run) -> None:
    assert run("--version") == f"expedite {__version__}\n"


class TestBadInput:
    """Design, section 8: exit code 2, one sentence, nothing half written."""

    def test_missing_checkpoint(self, refusal: Run) -> None:
        text = refusal("describe", "segmenter:/nowhere/checkpoint.pth")
        assert "neither a checkpoint file that is there nor a published backbone" in text
        assert "vit_large_patch16_384" in text

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_truncated_checkpoint(self, checkpoint: Path, share: float, refusal: Run) -> None:
        whole = checkpoint.read_bytes()
        checkpoint.write_bytes(whole[: int(share * len(whole))])
        assert str(checkpoint) in refusal("describe", f"segmenter:{checkpoint}")

    def test_pickle_that_is_not_weights(self, checkpoint: Path, refusal: Run) -> None:
        checkpoint.write_bytes(pickle.dumps(subprocess.run))
        text = refusal("describe", f"segmenter:{checkpoint}")
        assert "a pickle of more than tensors" in text

    def test_keys_that_do_not_fit(self, checkpoint: Path, refusal: Run) -> None:
        state = torch.load(checkpoint, weights_only=True)
        state["model"] = {f"net.{name}": tensor for name, tensor in state["model"].items()}
        torch.save(state, checkpoint)
        text = refusal("describe", f"segmenter:{checkpoint}")
        assert "missing (encoder.cls_token, " in text
        assert "unexpected (net.encoder.cls_token, " in text

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ({"model": subprocess.run}, "a pickle of more than tensors"),
            ({"weight": torch.zeros(2)}, "1 unexpected (weight)"),
            ({"cls_token": torch.zeros(2)}, "cls_token (2,) for (1, 1, 192)"),
            ({"epoch": 3}, "a dict with keys epoch, not a state dict"),
            (b"", "not a whole checkpoint"),
        ],
    )
    def test_checkpoint_for_a_model(
        self, content: Any, sentence: str, refusal: Run, tmp_path: Path
    ) -> None:
        path = tmp_path / "weights.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        text = refusal("describe", "timm:vit_tiny_patch16_224", "--checkpoint", path)
        assert str(path) in text
        assert sentence in text

    def test_checkpoint_for_a_checkpoint(self, checkpoint: Path, refusal: Run) -> None:
        text = refusal("describe", f"segmenter:{checkpoint}", "--checkpoint", checkpoint)
        assert "which brings its own weights" in text

    def test_missing_variant(self, checkpoint: Path, refusal: Run) -> None:
        (checkpoint.parent / "variant.yml").unlink()
        assert "variant.yml" in refusal("describe", f"segmenter:{checkpoint}")

    def test_unreadable_variant(self, checkpoint: Path, refusal: Run) -> None:
        (checkpoint.parent / "variant.yml").write_bytes(b"\xff\xfe: [")
        assert "variant.yml" in refusal("describe", f"segmenter:{checkpoint}")

    def test_image_that_cannot_be_read(
        self, sweep: list[object], data: Path, refusal: Run, tmp_path: Path
    ) -> None:
        path = data / "images/val/c.png"
        path.write_bytes(path.read_bytes()[:200])
        assert f"{path} cannot be read as an image" in refusal(*sweep, started=True)
        assert list(tmp_path.glob("out/*")) == []

    def test_labels_of_the_wrong_size(
        self, sweep: list[object], data: Path, refusal: Run, tmp_path: Path
    ) -> None:
        Image.fromarray(np.zeros((36, 47), np.uint8)).save(data / "annotations/val/b.png")
        assert "has shape (36, 47) for an image of (36, 48)" in refusal(*sweep, started=True)
        assert list(tmp_path.glob("out/*")) == []

    def test_labels_beyond_the_classes(
        self, sweep: list[object], data: Path, refusal: Run, tmp_path: Path
    ) -> None:
        Image.fromarray(np.full((36, 48), 7, np.uint8)).save(data / "annotations/val/b.png")
        text = refusal(*sweep, started=True)
        assert text.startswith(f"error: {data / 'annotations/val/b.png'}: a label 7 was found, and")
        assert "the model has the classes 0 to 4" in text
        assert list(tmp_path.glob("out/*")) == []

    def test_labels_that_cannot_be_read(
        self, sweep: list[object], data: Path, refusal: Run, tmp_path: Path
    ) -> None:
        path = data / "annotations/val/b.png"
        path.write_bytes(path.read_bytes()[:200])
        assert f"{path} cannot be read as an image" in refusal(*sweep, started=True)
        assert list(tmp_path.glob("out/*")) == []

    @pytest.mark.parametrize("suffix", [".png", ".npy"])
    def test_depth_that_cannot_be_read(
        self, suffix: str, depth_sweep: list[object], refusal: Run, tmp_path: Path
    ) -> None:
        path = tmp_path / "scenes/depth/val/00001.png"
        if suffix == ".npy":
            np.save(path.with_suffix(suffix), np.asarray(Image.open(path), np.float32))
            path.unlink()
        path = path.with_suffix(suffix)
        path.write_bytes(path.read_bytes()[:200])
        assert f"{path} cannot be read as an" in refusal(*depth_sweep, started=True)
        assert list(tmp_path.glob("out/*")) == []

    def test_a_folder_without_images(
        self, sweep: list[object], data: Path, refusal: Run, tmp_path: Path
    ) -> None:
        for path in (data / "images/val").iterdir():
            path.unlink()
        assert "holds no image (.bmp, .jpeg" in refusal(*sweep)
        assert not (tmp_path / "out").exists()

    def test_unknown_model(self, refusal: Run) -> None:
        assert "the forms are segmenter:FILE" in refusal("describe", "resnet50")
        assert "which timm does not know" in refusal("describe", "timm:vit_tinny")

    def test_unknown_host(self, tmp_path: Path, refusal: Run) -> None:
        file = tmp_path / "mine.py"
        file.write_text("import torch\n\n\ndef net():\n    return torch.nn.Linear(2, 2)\n")
        text = refusal("describe", f"{file}:net", "--image-size", 32)
        assert "Linear" in text

    def test_file_without_the_factory(self, tmp_path: Path, refusal: Run) -> None:
        file = tmp_path / "mine.py"
        file.write_text("x = 1\n")
        assert "defines no function 'net'" in refusal("describe", f"{file}:net")
        assert "not a Python file" in refusal("describe", f"{tmp_path}/none.py:net")

    @pytest.mark.parametrize(
        ("plan", "sentence"),
        [
            (("--alpha", "4", "--clusters", "4"), "alpha"),
            (("--alpha", "-1", "--clusters", "4"), "alpha"),
            (("--alpha", "1", "--clusters", "9"), "9×9"),
            (("--alpha", "1", "--clusters", "0"), "the size '0' was given"),
            (("--alpha", "1", "--clusters", "four"), "'four' was given where a number is due"),
            (("--alpha", "1", "--clusters", "4", "--beta", "4"), "beta"),
            (("--alpha", "1", "--keep", "1.5"), "keep"),
            (("--alpha", "1"), "exactly one of the two"),
            (("--clusters", "4"), "without --alpha"),
            (("--method", "paper"), "without --alpha"),
            (("--set", "iterations=9"), "without --alpha"),
            (("--beta", "2"), "without --alpha"),
            (("--reconstruct-at", "head"), "without --alpha"),
            ((*PLAN, "--set", "k=4", "--set", "k=9"), "--set k was given twice"),
            ((*PLAN, "--set", "k=17"), "k=17 nearest clusters were asked with weights='kriging'"),
            ((*PLAN, "--set", "weights=linear", "--set", "k=17"), "k can be at most 16"),
            ((*PLAN, "--set", "colour=red"), "colour"),
            ((*PLAN, "--set", "k"), "NAME=VALUE"),
            ((*PLAN, "--set", "k=["), "--set k=[ was asked; its value is not readable as YAML"),
            ((*PLAN, "--set", "k=2026-13-01"), "its value is not readable as YAML"),
            ((*PLAN, "--set", "alpha=3"), "alpha is given by --alpha"),
            ((*PLAN, "--set", "method=paper"), "method is given by --method"),
            ((*PLAN, "--method", "magic"), "magic"),
            ((*PLAN, "--reconstruct-at", "neck"), "neck"),
        ],
    )
    def test_impossible_plan(
        self, plan: tuple[str, ...], sentence: str, checkpoint: Path, refusal: Run
    ) -> None:
        assert sentence in refusal("flops", f"segmenter:{checkpoint}", *plan)

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
        self, words: tuple[str, ...], sentence: str, sweep: list[Any], refusal: Run, tmp_path: Path
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
        self, words: tuple[str, ...], sentence: str, sweep: list[Any], refusal: Run
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
        self,
        words: tuple[str, ...],
        sentence: str,
        depth_sweep: list[Any],
        refusal: Run,
        tmp_path: Path,
    ) -> None:
        assert sentence in refusal(*depth_sweep, *words)
        assert not (tmp_path / "out").exists()

    def test_depth_of_8_bits(self, depth_sweep: list[object], refusal: Run, tmp_path: Path) -> None:
        Image.new("L", (48, 32)).save(tmp_path / "scenes/depth/val/00001.png")
        assert "depth is due in one channel of 16 bits" in refusal(*depth_sweep, started=True)
        assert list(tmp_path.glob("out/*")) == []

    def test_negative_seconds(self, sweep: list[object], refusal: Run, tmp_path: Path) -> None:
        assert "-1.0 seconds" in refusal(*sweep, "--seconds", "-1", started=True)
        assert list(tmp_path.glob("out/*")) == []

    @pytest.mark.parametrize("command", ["report", "compare"])
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
    def test_truncated_results(
        self, command: str, share: float, refusal: Run, tmp_path: Path
    ) -> None:
        Results({"model": "x"}, "segmentation", rows=list(ROWS)).save(tmp_path)
        path = tmp_path / "results.json"
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        words = [tmp_path] * (2 if command == "compare" else 1)
        assert f"{path} does not hold the rows of a sweep" in refusal(command, *words)

    def test_impossible_report(self, refusal: Run, tmp_path: Path) -> None:
        assert "is not there" in refusal("report", tmp_path)
        Results({"model": "x"}, "segmentation", rows=list(ROWS)).save(tmp_path)
        assert "the format 'pdf' was asked" in refusal("report", tmp_path, "--format", "pdf")
        nowhere = tmp_path / "nowhere/report.md"
        text = refusal("report", tmp_path, "--out", nowhere)
        assert f"{nowhere} cannot be written: No such file or directory" in text

    @pytest.mark.parametrize("command", ["sweep", "visualize", "report"])
    def test_a_full_disk(
        self,
        command: str,
        sweep: list[object],
        checkpoint: Path,
        data: Path,
        refusal: Run,
        tmp_path: Path,
    ) -> None:
        Results({"model": "x"}, "segmentation", rows=list(ROWS)).save(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        picture = ["visualize", f"segmenter:{checkpoint}", data / "images/val/a.png", *PLAN]
        words = {
            "sweep": sweep,
            "visualize": [*picture, "--out", tmp_path / "x.png"],
            "report": ["report", tmp_path, "--out", tmp_path / "x.md"],
        }[command]
        with files_of_at_most(300):
            assert " cannot be written: File too large; make room there" in refusal(*words)
        assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "out"] == before

    def test_impossible_picture(
        self, checkpoint: Path, data: Path, refusal: Run, tmp_path: Path
    ) -> None:
        words = ("visualize", f"segmenter:{checkpoint}", data / "images/val/a.png")
        out = ("--out", tmp_path / "x.png")
        assert "neither --alpha nor --plans was given" in refusal(*words, *out)
        assert "2 plans were asked" in refusal(*words, *out, "--alpha", "1,2", "--clusters", 4)
        assert "9×9" in refusal(*words, *out, "--alpha", 1, "--clusters", 9)
        assert "a .png file, or a folder, is due" in refusal(*words, *PLAN, "--out", "x.jpg")
        below = tmp_path / "model/checkpoint.pth/x"
        assert "checkpoint.pth is a file" in refusal(*words, *PLAN, "--out", below)
        assert not out[1].exists()

    def test_a_picture_of_what_is_no_image(
        self, checkpoint: Path, data: Path, refusal: Run, tmp_path: Path
    ) -> None:
        words = ("--out", tmp_path / "x.png", *PLAN)
        path = data / "images/val/a.png"
        path.write_bytes(path.read_bytes()[:200])
        for image in (path, data / "none.png", data, checkpoint):
            text = refusal("visualize", f"segmenter:{checkpoint}", image, *words)
            assert f"{image} cannot be read as an image" in text
        assert not (tmp_path / "x.png").exists()

    def test_results_that_are_none(self, sweep: list[object], refusal: Run, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/results.json").write_text("{")
        assert "does not hold the rows of a sweep" in refusal(*sweep)

    def test_a_folder_that_cannot_be_written(
        self, sweep: list[object], refusal: Run, tmp_path: Path
    ) -> None:
        (tmp_path / "out").write_text("a file")
        assert str(tmp_path / "out") in refusal(*sweep)
        text = refusal(*sweep, "--out", "/proc/expedite")
        assert "/proc/expedite was to be written, and nothing can be written to /proc (" in text

    def test_a_disk_that_gets_full(
        self, sweep: list[object], run: Run, refusal: Run, tmp_path: Path
    ) -> None:
        run(*sweep, "--limit", 1)
        before = (tmp_path / "out/results.json").read_text()
        more = ["1,2,3" if word == "1,2" else word for word in sweep]
        (tmp_path / "out/.results.json.partial").symlink_to("/dev/full")
        text = refusal(*more, "--limit", 1, started=True)
        assert "results.json cannot be written: No space left on device; make room" in text
        assert (tmp_path / "out/results.json").read_text() == before
        run(*more, "--limit", 1)
        rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
        assert rows[:-1] == json.loads(before)["rows"]
