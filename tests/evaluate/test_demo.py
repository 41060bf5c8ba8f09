"""The shipped model is as good as it is said to be, and the demo shows what it bought."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from expedite.evaluate import demo
from expedite.evaluate.metrics import Agreement
from expedite.evaluate.predict import predict
from expedite.evaluate.scenes import CLASSES


def test_the_checkpoint_is_small_and_in_the_published_layout() -> None:
    folder = demo._CHECKPOINT.parent
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pth", "variant.yml"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5_000_000
    assert list(torch.load(demo._CHECKPOINT, weights_only=True)) == ["model"]


def test_the_checkpoint_knows_scenes_it_never_saw() -> None:
    loaded = demo.demo_model()
    agreement = Agreement(len(CLASSES))
    for sample in demo.unseen_scenes(12):
        assert sample.labels is not None
        predicted = predict(loaded, loaded.model, sample.image)
        agreement.add(torch.from_numpy(sample.labels), predicted.indices)
    assert agreement.mean_iou() >= 0.8


def test_the_demo_sweeps_reports_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_PLANS", demo._PLANS[:1])
    with (tmp_path / "shown.txt").open("w") as shown:
        demo.run_demo(tmp_path / "out", 2, 0.0, Console(file=shown, width=80), "expedite demo")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"results.json", "results.csv", "report.html", "picture.png"}
    base, plan = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert base["plan"] is None
    assert plan["gflops"] < 0.7 * base["gflops"]
    assert plan["retention"] > 0.9
    assert np.asarray(Image.open(tmp_path / "out/picture.png")).std() > 20
    text = (tmp_path / "shown.txt").read_text()
    assert "times as fast and keeps" in text
