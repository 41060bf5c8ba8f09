"""One file for other runtimes."""

import json
import re
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Run


@pytest.mark.slow
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
