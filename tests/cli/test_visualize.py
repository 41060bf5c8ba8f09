"""Pictures of one plan."""

import json
from pathlib import Path

from PIL import Image

from tests.cli.conftest import PLAN, Run


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


def test_impossible_picture(checkpoint: Path, data: Path, refusal: Run, tmp_path: Path) -> None:
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
    checkpoint: Path, data: Path, refusal: Run, tmp_path: Path
) -> None:
    words = ("--out", tmp_path / "x.png", *PLAN)
    path = data / "images/val/a.png"
    path.write_bytes(path.read_bytes()[:200])
    for image in (path, data / "none.png", data, checkpoint):
        text = refusal("visualize", f"segmenter:{checkpoint}", image, *words)
        assert f"{image} cannot be read as an image" in text
    assert not (tmp_path / "x.png").exists()
