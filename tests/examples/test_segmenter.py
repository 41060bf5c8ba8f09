"""The example that one copies: on a checkpoint and a photograph, and on what is shipped."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedite.models.segmenter_files import Preprocessing, save_segmenter
from expedite.scenes.scenes import render_scene
from tests.examples.scripts import run, run_apart
from tests.hosts import segmenter


@pytest.mark.slow
def test_compares_and_draws_a_checkpoint_on_an_image(tmp_path: Path) -> None:
    preprocessing = Preprocessing("vit", 32, 32, 16, "")
    checkpoint = save_segmenter(segmenter(), preprocessing, "vit_64x4_patch4_32", tmp_path)
    Image.fromarray(render_scene(0, (40, 60)).image).save(tmp_path / "street.jpg")
    words = ("--checkpoint", checkpoint, "--image", "street.jpg", "--alpha", 1, "--keep", 0.25)
    done = run("segmenter.py", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "blocks 2 to 4 run on 4×4 clusters, 16 of 64 tokens (25.0%)" in done.stdout
    assert "unpatched" in done.stdout
    assert np.asarray(Image.open(tmp_path / "segmenter.png")).ndim == 3


@pytest.mark.slow
def test_what_cannot_be_done_is_said_in_one_sentence(tmp_path: Path) -> None:
    done = run_apart("segmenter.py", "--checkpoint", "nothing.pth", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout.startswith("error: 'segmenter:nothing.pth' was asked")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
