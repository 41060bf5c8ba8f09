"""Published settings, listed, checked and measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from expedite.evaluate.results import read_results
from expedite.loading import load_model
from expedite.plan import make_plan
from expedite.recipes import COUNTED_WITH, RECIPES, Recipe, Row, find_recipe
from expedite.recipes.recipe import paper
from tests.cli.conftest import Execute, Run


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe that is counted in no time; the patched row's count is wrong."""
    small = ("tiny", "timm:vit_tiny_patch16_224", (224, 224), 10, "", "", "")
    rows = (Row(None, 1.26, None, None), Row(make_plan(6, 7), 1.26, None, None))
    monkeypatch.setitem(RECIPES, "tiny", Recipe(*small, rows=rows))
    return RECIPES["tiny"]


def test_recipes_by_name(run: Run, refusal: Run) -> None:
    assert all(name in run("recipes") for name in ("swag-vit-h14", "sam-vit-h"))
    assert "443.84" in run("recipes", "segmenter-vit-l16-ade20k")
    (found,) = json.loads(run("recipes", "dpt-hybrid-kitti", "--json"))["recipes"]
    assert (found["image_size"], found["flops_per_multiply_add"]) == ([352, 1216], 2)
    assert found["rows"][2]["plan"]["spans"][0]["alpha"] == 5
    assert "the recipe 'swin' was asked" in refusal("recipes", "swin")


def test_recipes_are_checked(
    tiny: Recipe, execute: Execute, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = execute("recipes", "--check", "tiny")
    assert code == 1
    assert out.count("FAILS") == 1
    assert err.endswith(" counting row 2 of 2 of tiny\n")
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
    folder = tmp_path / "out"  # whose rows are there already, of the same weights and images
    again = ["reproduce", "small", "--data", data, "--out", folder, "--limit", 1, "--device", "cpu"]
    told = run(*again, "--weights", tmp_path, "--seconds", 0)
    record = json.loads((folder / "reproduced.json").read_text())
    assert [row["published"]["metric"] for row in record["rows"]] == [51.82, None, None]
    for row, measured in zip(record["rows"], content["rows"], strict=True):
        assert row["measured"]["metric"] == 100 * measured["metrics"]["miou"]
        assert row["measured"]["fps"] == measured["fps"]
        assert f"{row['measured']['metric']:.2f}" in told
    assert record["environment"]["torch"] == torch.__version__


def test_weights_that_are_not_there(data: Path, refusal: Run, tmp_path: Path) -> None:
    words = ["--weights", tmp_path, "--data", data, "--out", tmp_path / "out"]
    said = refusal("reproduce", "segmenter-vit-l16-ade20k", *words)
    assert "has no checkpoint.pth; they are at https://" in said
    assert "has no published name; expedite sweep" in refusal(
        "reproduce", "dino-swin-l-coco", *words
    )
