"""The search for a plan."""

import json
from pathlib import Path

from tests.cli.conftest import Execute, Run


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
