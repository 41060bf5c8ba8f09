"""The depth example on a checkpoint and a photograph."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedite.models.dpt_files import Variant, save_dpt
from expedite.scenes.scenes import render_scene
from tests.examples.scripts import run
from tests.hosts import dpt


@pytest.mark.slow
def test_compares_and_draws_a_checkpoint_on_an_image(tmp_path: Path) -> None:
    model = dpt()
    checkpoint = save_dpt(model, Variant(model.config, (128, 160)), tmp_path)
    Image.fromarray(render_scene(0, (40, 60)).image).save(tmp_path / "street.jpg")
    words = ("--checkpoint", checkpoint, "--image", "street.jpg", "--alpha", 1, "--keep", 0.25)
    done = run("dpt.py", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "blocks 2 to 4 run on 4×5 clusters, 20 of 80 tokens (25.0%)" in done.stdout
    assert "against the unpatched model: RMSE" in done.stdout
    assert np.asarray(Image.open(tmp_path / "dpt.png")).std() > 0


def test_a_name_that_tells_no_architecture_is_said_in_one_sentence(tmp_path: Path) -> None:
    model = dpt()
    checkpoint = save_dpt(model, Variant(model.config), tmp_path)
    checkpoint.with_name("variant.yml").unlink()
    done = run("dpt.py", "--checkpoint", checkpoint, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout.startswith("error: the architecture of")
    assert "Traceback" not in done.stderr
