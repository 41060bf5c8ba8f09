"""`expedite calibrate`, and plans that name what it wrote."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.cli.conftest import Execute, Run


def test_calibrate(
    checkpoint: Path, data: Path, tmp_path: Path, execute: Execute, refusal: Run
) -> None:
    model, out = f"segmenter:{checkpoint}", tmp_path / "made.safetensors"
    pixels = np.random.default_rng(1).integers(0, 255, (32, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data / "images/val/d.png")  # three say too little
    asked = ("calibrate", model, "--images", data, "--alpha", 1, "--out", out, "--device", "cpu")
    code, text, err = execute(*asked, "--json")
    content = json.loads(text)
    assert code == 0, err
    assert content["path"] == str(out)
    assert content == {"path": str(out), "alpha": 1, "images": 4, "width": 64, "directions": 64}
    code, text, err = execute(
        "describe", model, "--alpha", 1, "--keep", 0.25, "--set", f"calibration={out}"
    )
    assert code == 0, err
    assert "calibrated" in text
    assert "made for alpha=1" in refusal(
        "describe", model, "--alpha", 0, "--keep", 0.25, "--set", f"calibration={out}"
    )
    assert "random" in refusal(
        *("calibrate", "timm:vit_tiny_patch16_224", "--images", data),
        *("--alpha", 4, "--out", tmp_path / "none"),
    )
