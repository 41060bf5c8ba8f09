"""The example for Mask2Former: on a small one in a folder, and on one with random weights."""

from pathlib import Path
from types import SimpleNamespace

import mask2former
import pytest
from train_mask2former import hf, store

from tests.examples.test_train_mask2former import fresh, small


@pytest.mark.slow
def test_says_what_patching_buys_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(fresh(), tmp_path)
    capsys.readouterr()
    mask2former.main(str(tmp_path), alpha=3, keep=0.5)
    printed = capsys.readouterr().out
    assert "blocks 4 to 4 run on 3×5 clusters in windows of 3×3" in printed
    assert "patched" in printed
    assert "random" not in printed


@pytest.mark.slow
def test_a_model_of_random_weights_is_called_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not on the library itself, of which `small` makes its configuration.
    stand_in = SimpleNamespace(
        Mask2FormerConfig=small,
        Mask2FormerForUniversalSegmentation=hf.Mask2FormerForUniversalSegmentation,
    )
    monkeypatch.setattr(mask2former, "transformers", stand_in)
    monkeypatch.setattr(mask2former, "SIDE", 64)
    mask2former.main(None, alpha=3, keep=0.5)
    assert capsys.readouterr().out.startswith("random weights")
