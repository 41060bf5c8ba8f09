"""Runs commands as a person types them, on small models and data."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from expedite.cli import main
from expedite.models.segmenter_files import Preprocessing, save_segmenter
from expedite.scenes.scenes import write_scenes
from tests.counted import COUNTING, counted_once
from tests.hosts import segmenter

Run = Callable[..., str]
Execute = Callable[..., tuple[Any, str, str]]
PLAN = ("--alpha", "1", "--clusters", "4")
SAID = re.compile(r"\[\d+:\d\d\] .+")  # of work that goes on


@pytest.fixture(autouse=True)
def counts_of_old(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COUNTING:
        monkeypatch.setattr(name, counted_once)


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Execute:
    """Runs a command; returns its exit code and what it printed, out and err."""

    def command(*words: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["expedite", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return command


@pytest.fixture
def run(execute: Execute) -> Run:
    """Runs a command; returns what it printed."""

    def command(*words: object) -> str:
        code, out, err = execute(*words)
        assert code == 0, err
        return out

    return command


@pytest.fixture
def refusal(execute: Execute) -> Run:
    """Runs a command that cannot be done; returns its one sentence."""

    def command(*words: object) -> str:
        code, out, err = execute(*words)
        assert (code, out) == (2, "")
        *said, sentence = err.splitlines()
        assert all(map(SAID.fullmatch, said))
        assert sentence.startswith("error: ")
        return sentence

    return command


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    preprocessing = Preprocessing("vit", 32, 32, 16, "camvid")
    return save_segmenter(segmenter(), preprocessing, "vit_64x4_patch4_32", tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for kind in ("images", "annotations"):
        (root / kind / "val").mkdir(parents=True)
    for name in ("a", "b", "c"):
        pixels = rng.integers(0, 255, (36, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/val/{name}.png")
        labels = rng.integers(0, 5, (36, 48), dtype=np.uint8)
        Image.fromarray(labels).save(root / f"annotations/val/{name}.png")
    return root


@pytest.fixture
def sweep(checkpoint: Path, data: Path, tmp_path: Path) -> list[object]:
    """The words of a small sweep into tmp_path/out."""
    model, out = f"segmenter:{checkpoint}", tmp_path / "out"
    quick = ["--seconds", "0", "--device", "cpu"]
    return ["sweep", model, "--data", data, "--out", out, "--alpha", "1,2", "--clusters", 4, *quick]


@pytest.fixture
def depth_sweep(tmp_path: Path) -> list[object]:
    """The words of a sweep of a depth model over two scenes into tmp_path/out."""
    (tmp_path / "mine.py").write_text(
        "from tests.hosts import depth_vit\n\n\ndef net():\n    model = depth_vit()\n"
        '    model.pretrained_cfg = {"input_size": (3, 32, 32), "task": "depth"}\n'
        "    return model\n"
    )
    write_scenes(tmp_path / "scenes", "val", 2, (32, 48))
    words = ["--data", tmp_path / "scenes", "--out", tmp_path / "out", *PLAN]
    return ["sweep", f"{tmp_path}/mine.py:net", *words, "--seconds", "0", "--device", "cpu"]
