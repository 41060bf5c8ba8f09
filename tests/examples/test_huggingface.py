"""The example for models of transformers, on a small one in a folder."""

from pathlib import Path

import pytest
from PIL import Image

from expedite.scenes.scenes import render_scene
from tests.examples.scripts import run
from tests.patchers.transformers.test_vit import depth_anything, hf


@pytest.mark.slow
def test_patches_a_folder_and_runs_a_pipeline(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    depth_anything().save_pretrained(folder)
    hf.DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    Image.fromarray(render_scene(0, (40, 60)).image).save(tmp_path / "room.jpg")
    words = ("--model", folder, "--image", "room.jpg", "--alpha", 1, "--keep", 0.25)
    done = run("huggingface.py", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "blocks 2 to 4 run on 4×4 clusters, 16 of 64 tokens (25.0%)" in done.stdout
    assert "depth.png is the depth map of 60×40 pixels, as its checkpoint sees it" in " ".join(
        done.stdout.split()
    )
    with Image.open(tmp_path / "depth.png") as depth:
        assert depth.size == (60, 40)
