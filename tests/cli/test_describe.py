"""What a model is, and models that cannot be had."""

import json
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import PLAN, Run


def test_describe_says_what_a_plan_leaves(checkpoint: Path, run: Run) -> None:
    model = f"segmenter:{checkpoint}"
    assert "8×8" in run("describe", model)
    content = json.loads(run("describe", model, *PLAN, "--json"))
    assert content["model"] == model
    assert content["grid"] == [8, 8]
    assert content["kept"] == [[4, 4]]


def test_a_factory_of_ones_own(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import tests.hosts\n\n\ndef small():\n    return tests.hosts.timm_vit()\n")
    text = run("describe", f"{file}:small", "--image-size", 32)
    assert "VisionTransformer" in text


def test_missing_checkpoint(refusal: Run) -> None:
    text = refusal("describe", "segmenter:/nowhere/checkpoint.pth")
    assert "neither a checkpoint file that is there nor a published backbone" in text
    assert "vit_large_patch16_384" in text


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_checkpoint(checkpoint: Path, share: float, refusal: Run) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(share * len(whole))])
    assert str(checkpoint) in refusal("describe", f"segmenter:{checkpoint}")


def test_pickle_that_is_not_weights(checkpoint: Path, refusal: Run) -> None:
    checkpoint.write_bytes(pickle.dumps(subprocess.run))
    text = refusal("describe", f"segmenter:{checkpoint}")
    assert "a pickle of more than tensors" in text


def test_keys_that_do_not_fit(checkpoint: Path, refusal: Run) -> None:
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
def test_checkpoint_for_a_model(content: Any, sentence: str, refusal: Run, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    text = refusal("describe", "timm:vit_tiny_patch16_224", "--checkpoint", path)
    assert str(path) in text
    assert sentence in text


def test_checkpoint_for_a_checkpoint(checkpoint: Path, refusal: Run) -> None:
    text = refusal("describe", f"segmenter:{checkpoint}", "--checkpoint", checkpoint)
    assert "which brings its own weights" in text


def test_missing_variant(checkpoint: Path, refusal: Run) -> None:
    (checkpoint.parent / "variant.yml").unlink()
    assert "variant.yml" in refusal("describe", f"segmenter:{checkpoint}")


def test_unreadable_variant(checkpoint: Path, refusal: Run) -> None:
    (checkpoint.parent / "variant.yml").write_bytes(b"\xff\xfe: [")
    assert "variant.yml" in refusal("describe", f"segmenter:{checkpoint}")


def test_unknown_model(refusal: Run) -> None:
    assert "the forms are segmenter:FILE" in refusal("describe", "resnet50")
    assert "which timm does not know" in refusal("describe", "timm:vit_tinny")


def test_unknown_host(tmp_path: Path, refusal: Run) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import torch\n\n\ndef net():\n    return torch.nn.Linear(2, 2)\n")
    text = refusal("describe", f"{file}:net", "--image-size", 32)
    assert "Linear" in text


def test_file_without_the_factory(tmp_path: Path, refusal: Run) -> None:
    file = tmp_path / "mine.py"
    file.write_text("x = 1\n")
    assert "defines no function 'net'" in refusal("describe", f"{file}:net")
    assert "not a Python file" in refusal("describe", f"{tmp_path}/none.py:net")
