"""Segment an image with a Segmenter, unpatched and patched: what it buys, and what it changes.

    python examples/segmenter.py
    python examples/segmenter.py --checkpoint checkpoint.pth --image street.jpg --alpha 10

Without a checkpoint it takes the small one of the demo, without an image a generated scene. A
published checkpoint needs its `variant.yml` beside it.
"""

import copy
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

import expedite
from expedite import ExpediteError
from expedite.evaluate.demo import demo_model, unseen_scenes
from expedite.evaluate.flops import count_flops
from expedite.evaluate.metrics import Agreement
from expedite.evaluate.picture import draw_plan
from expedite.evaluate.predict import predict
from expedite.evaluate.speed import time_pairs
from expedite.loading import LoadedModel, load_model
from expedite.patching import grid_of

console = Console()


def compare(loaded: LoadedModel, fast: nn.Module, image: np.ndarray) -> Table:
    """A table of the unpatched and the patched model on one image."""
    window = torch.zeros(1, 3, *loaded.image_size)
    with torch.inference_mode():
        timing = time_pairs(lambda: loaded.model(window), lambda: fast(window), window.device)
    before, after = predict(loaded, loaded.model, image), predict(loaded, fast, image)
    agreement = Agreement(before.classes)
    agreement.add(before.indices, after.indices)
    table = Table("", "GFLOPs", "FPS", "same pixels")
    for name, model, seconds, same in (
        ("unpatched", loaded.model, timing.first.median, 1.0),
        ("patched", fast, timing.second.median, agreement.accuracy()),
    ):
        gflops = count_flops(model, window).total
        table.add_row(name, f"{gflops:.2f}", f"{1 / seconds:.1f}", f"{same:.1%}")
    return table


def main(
    checkpoint: Annotated[Path | None, typer.Option(help="With variant.yml beside it.")] = None,
    image: Annotated[Path | None, typer.Option(help="Any photograph.")] = None,
    alpha: Annotated[int, typer.Option(help="Blocks at full resolution.")] = 2,
    keep: Annotated[float, typer.Option(help="Share of the tokens to keep.")] = 0.35,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("segmenter.png"),
) -> None:
    """Load, patch, compare and draw."""
    loaded = load_model(f"segmenter:{checkpoint}") if checkpoint else demo_model()
    pixels = np.asarray(Image.open(image).convert("RGB")) if image else unseen_scenes(4)[3].image

    fast = expedite.patch(copy.deepcopy(loaded.model), alpha=alpha, keep=keep)

    grid = grid_of(fast, torch.zeros(1, 3, *loaded.image_size))
    console.print(str(expedite.describe(fast, grid)))
    console.print(compare(loaded, fast, pixels))
    draw_plan(loaded, loaded.model, fast, pixels, out)
    console.print(f"look at {out}: image, clusters, classes before and after")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ExpediteError, OSError) as error:
        console.print(f"error: {error}", soft_wrap=True)
        sys.exit(2)
