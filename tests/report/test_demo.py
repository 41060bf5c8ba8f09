"""The demo shows what patching the shipped models bought."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from expedite.loading.demo import SHIPPED
from expedite.report import demo
from expedite.terminal.status import Status

FACTORY = """
from tests.hosts import depth_vit

def make():
    model = depth_vit(img_size=(64, 96), patch_size=8)
    model.pretrained_cfg = {"input_size": (3, 64, 96), "task": "depth"}
    return model
"""


def test_the_demo_sweeps_reports_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = replace(demo._INSTRUMENTS[0], plans=demo._INSTRUMENTS[0].plans[:1])
    (tmp_path / "stand_in.py").write_text(FACTORY)
    depth = demo.Instrument("depth", f"{tmp_path}/stand_in.py:make", [(1, (4, 6))])
    monkeypatch.setattr(demo, "_INSTRUMENTS", [segmenter, depth])
    out = tmp_path / "out"
    status = Status(Console(file=StringIO()), "loading")
    found = demo.run_demo(out, 2, 0.0, status, "expedite demo")
    page = found.page
    assert page == out / "report.html"
    for task, metric in (("segmentation", "miou"), ("depth", "rmse")):
        names = {path.name for path in (out / task).iterdir()}
        assert names >= {"results.json", "results.csv", "picture.png"}
        assert np.asarray(Image.open(out / task / "picture.png")).std() > 20
        base, plan = json.loads((out / task / "results.json").read_text())["rows"]
        assert base["plan"] is None
        assert base["retention"] == 1
        assert base["metrics"][metric] > 0 < plan["metrics"][metric]
        if task == "segmentation":
            assert plan["gflops"] < 0.7 * base["gflops"]
            assert plan["retention"] > 0.9
    assert page.read_text().count("data:image/webp") == 2
    assert page.with_name("report.md").read_text().count("\n| plan |") == 2
    text = " ".join(map(str, found.told))
    assert text.count("times as fast at a retention of") == 2
    assert "in RMSE" in text


def test_the_shipped_models_are_what_is_swept() -> None:
    specs = [instrument.spec for instrument in demo._INSTRUMENTS]
    assert specs == [f"demo:{name}" for name in SHIPPED]
