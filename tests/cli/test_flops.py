"""Counts of one plan, and plans that cannot be."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import PLAN, Run


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
    plan: tuple[str, ...], sentence: str, checkpoint: Path, refusal: Run
) -> None:
    assert sentence in refusal("flops", f"segmenter:{checkpoint}", *plan)
