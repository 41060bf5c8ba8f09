"""The ViT-Adapter example on a checkpoint and a photograph."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedite.models.adapter_files import Variant, save_adapter
from expedite.scenes.scenes import render_scene
from tests.examples.scripts import run
from tests.hosts import ADAPTER


@pytest.mark.slow
def test_compares_and_draws_a_checkpoint_on_an_image(tmp_path: Path) -> None:
    variant = Variant(ADAPTER, "semantic-fpn", n_cls=3)
    checkpoint = save_adapter(variant.build(), variant, tmp_path)
    Image.fromarray(render_scene(0, (40, 60)).image).save(tmp_path / "street.jpg")
    words = ("--checkpoint", checkpoint, "--image", "street.jpg", "--alpha", 1, "--keep", 0.25)
    done = run("vit_adapter.py", *words, "--side", 128, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "blocks 2 to 4 run on 4×4 clusters, 16 of 64 tokens (25.0%)" in done.stdout
    assert np.asarray(Image.open(tmp_path / "vit_adapter.png")).std() > 0


def test_an_unknown_model_is_said_in_one_sentence(tmp_path: Path) -> None:
    done = run("vit_adapter.py", "--model", "huge", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout.startswith("error: 'vit_adapter:huge' was asked")
    assert "Traceback" not in done.stderr
