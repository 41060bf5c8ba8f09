"""The demo: a shipped Segmenter swept over generated scenes, with nothing to download."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from expedite.evaluate.datasets import Sample
from expedite.evaluate.picture import draw_plan
from expedite.evaluate.report import Picture, label, write_report
from expedite.evaluate.results import Results
from expedite.evaluate.run import Request, run_sweep
from expedite.evaluate.scenes import render_scene, scene_seed
from expedite.evaluate.speed import twin
from expedite.evaluate.sweep import Row
from expedite.loading import LoadedModel, load_model
from expedite.patching import patch
from expedite.plan import make_plan
from expedite.version import __version__

_CHECKPOINT = Path(__file__).parents[1] / "assets" / "demo-segmenter" / "checkpoint.pth"
_SIZE = (256, 384)  # of scenes, and of the one window that sees each: 32×48 tokens
_PLANS = [(2, (16, 24)), (2, (18, 27)), (2, (20, 30)), (3, (16, 24)), (3, (20, 30))]
_PICTURED = 3  # a scene with something of everything
# How much of the mIoU a plan must keep to be recommended.
_KEPT = 0.98


def run_demo(out: Path, count: int, seconds: float, console: Console, command: str) -> Results:
    """Sweep the shipped model on `count` unseen scenes and write report, plots and a picture.

    Args:
        out: Folder for everything that is written.
        count: How many scenes.
        seconds: How long to time each plan.
        console: Where progress and the outcome are shown.
        command: What repeats it.
    """
    loaded = demo_model()
    samples = unseen_scenes(count)
    request = Request(
        loaded=loaded,
        samples=samples,
        plans=[make_plan(alpha, clusters) for alpha, clusters in _PLANS],
        out=out,
        identity={"expedite": __version__, "model": loaded.name, "scenes": count},
        command=command,
        device=torch.device("cpu"),
        seconds=seconds,
    )
    results = run_sweep(request, console)
    best = _best(results.rows)
    picture = Picture(f"Before and after: {label(best)}", out / "picture.png")
    fast = patch(twin(loaded.model), best.plan)
    draw_plan(loaded, loaded.model, fast, samples[_PICTURED % count].image, picture.path)
    page = write_report(results, out, [picture])
    console.print(
        f"{label(best)} is {best.speedup:.2f} times as fast and keeps {best.retention:.1%} of the "
        f"mIoU; look at {page} and {picture.path}"
    )
    return results


def demo_model() -> LoadedModel:
    """The shipped Segmenter, trained on generated scenes by `examples/train_demo.py`."""
    return load_model(f"segmenter:{_CHECKPOINT}", _SIZE)


def unseen_scenes(count: int) -> list[Sample]:
    """Scenes of a split of their own, which no training rendered."""
    scenes = [render_scene(scene_seed("demo", index), _SIZE) for index in range(count)]
    return [
        Sample(f"scene {index}", scene.image, scene.labels.astype(np.int64))
        for index, scene in enumerate(scenes)
    ]


def _best(rows: Sequence[Row]) -> Row:
    """The fastest plan that keeps enough of the mIoU, or else the one that keeps most."""
    plans = [row for row in rows if row.plan]
    kept = [row for row in plans if (row.retention or 0) >= _KEPT]
    if kept:
        return max(kept, key=lambda row: row.speedup)
    return max(plans, key=lambda row: row.retention or 0)
