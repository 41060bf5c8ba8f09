"""What the examples share: one model on one image, unpatched and patched."""

import copy
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from running import console
from torch import Tensor, nn

import expedite
from expedite.evaluate.demo import PICTURED, unseen_scene
from expedite.evaluate.predict import predict
from expedite.evaluate.tasks import task_of
from expedite.evaluate.visualize import visualize
from expedite.loading import LoadedModel
from expedite.measure.flops import count_flops
from expedite.measure.speed import time_pairs
from expedite.patching import grid_of


def compare(loaded: LoadedModel, image: Path | None, alpha: int, keep: float, out: Path) -> None:
    """Patch a copy of a model, print what that buys and changes, and draw it.

    Args:
        loaded: The model.
        image: A photograph; None takes a generated scene.
        alpha: Blocks at full resolution.
        keep: Share of the tokens to keep.
        out: The picture to write.
    """
    pixels = np.asarray(Image.open(image).convert("RGB")) if image else unseen_scene(PICTURED).image

    fast = expedite.patch(copy.deepcopy(loaded.model), alpha=alpha, keep=keep)

    grid = grid_of(fast, torch.zeros(1, 3, *loaded.image_size))
    console.print(str(expedite.describe(fast, grid)))
    console.print(costs(loaded.model, fast, torch.zeros(1, 3, *loaded.image_size)))
    console.print(_agreement(loaded, fast, pixels))
    plan = expedite.describe(fast).plan
    assert plan is not None  # it was patched above
    visualize(loaded, plan, pixels, image.name if image else "a generated scene").write(out)
    console.print(f"look at {out}: image, clusters, errors, before and after")


def costs(plain: nn.Module, fast: nn.Module, images: Tensor) -> Table:
    """A table of what the unpatched and the patched model cost on images (B, 3, H, W)."""
    with torch.inference_mode():
        timing = time_pairs(lambda: plain(images), lambda: fast(images), images.device)
    table = Table("", "GFLOPs", "FPS")
    for name, model, seconds in (
        ("unpatched", plain, timing.first.median),
        ("patched", fast, timing.second.median),
    ):
        table.add_row(name, f"{count_flops(model, images).total:.2f}", f"{1 / seconds:.2f}")
    return table


def _agreement(loaded: LoadedModel, fast: nn.Module, image: np.ndarray) -> str:
    task = task_of(loaded)
    meter = task.meter()
    meter.add(task.as_truth(predict(loaded, loaded.model, image)), predict(loaded, fast, image))
    values = meter.values()
    measured = [metric for metric in task.metrics if metric.name in values]  # no part may be small
    found = [f"{metric.title} {metric.text(values[metric.name])}" for metric in measured]
    return f"against the unpatched model: {', '.join(found)}"
