"""What the documents show runs as it stands there."""

import re
from pathlib import Path

import pytest
from torch import nn

import expedite

ROOT = Path(__file__).parents[1]


def test_a_host_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/hosts.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    printed = capsys.readouterr().out
    assert "torch.Size([1, 5, 32, 32])" in printed
    assert "blocks 3 to 6 run on 16×16 clusters, 256 of 1024 tokens (25.0%)" in printed
    model = names["model"]
    assert isinstance(model, nn.Module)
    with expedite.patched(model, alpha=3, clusters=8, log_mass=False):
        assert "8×8" in str(expedite.describe(model))
    assert "16×16" in str(expedite.describe(model))
    assert expedite.unpatch(model) is model
    with pytest.raises(expedite.ExpediteError, match="host= says where"):
        expedite.describe(model)


def test_a_picture_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reports.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert (tmp_path / "picture.png").stat().st_size > 100_000


@pytest.mark.slow
def test_an_export_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    # Rewriting the graph takes three quarters of an export; tests/exporting runs rewritten ones.
    monkeypatch.setattr("torch.onnx.ONNXProgram.optimize", lambda program: None)
    exec(code, {})
    assert "('output',) batch 1: 1 of 1 images agree" in capsys.readouterr().out
    assert (tmp_path / "model.onnx").stat().st_size > 1_000_000
