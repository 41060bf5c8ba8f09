"""Speed and memory of one plan."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch

from expedite.measure.parts import PARTS
from tests.cli.conftest import PLAN, Execute, Run


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
    monkeypatch.setattr("expedite.evaluate.recommend.LEAST_SPEEDUP", 1e9)
    text = run(*words, "--batch-size", 3)
    assert "At batch 3 this plan does not pay on this machine" in text
    for part in ("blocks before α", "clustering", "reconstruction", "all parts, of a call"):
        assert len(re.findall(rf"^{part} .*%.*%$", text, re.MULTILINE)) == 1
    monkeypatch.setattr("expedite.evaluate.recommend.LEAST_SPEEDUP", 0)
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


def test_a_batch_of_none_is_refused(checkpoint: Path, execute: Execute) -> None:
    code, out, err = execute("bench", f"segmenter:{checkpoint}", *PLAN, "--batch-size", 0)
    assert (code, out) == (2, "")
    assert "--batch-size" in err
