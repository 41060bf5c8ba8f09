"""What each part of a plan brings: how far patched models are from themselves unpatched.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --checkpoint segmenter/checkpoint.pth --data DIR

The instruments are the demo's Segmenter and DPT on generated scenes that they never saw; the second
command adds a Segmenter of one's own on windows of the images in DIR/images/val. Every way runs the
same blocks on as many clusters. Segmentation: the share of places whose class differs, in percent;
depth: RMSE in metres. Behind ± stands the standard error over images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from expedite.evaluate.datasets import open_folder
from expedite.evaluate.demo import demo_depth_model, demo_model, unseen_scenes
from expedite.evaluate.images import Image, normalize, resize, resize_short_side
from expedite.loading import LoadedModel, load_model
from expedite.patching import patched

WAYS: dict[str, dict[str, Any]] = {
    "expedite": {},
    "clusters stay in place": {"relocated": 0.0},
    "soft last step": {"hard": False},
    "softmax weights": {"weights": "softmax"},
    "no delta": {"delta": False},
    "no log-mass attention": {"log_mass": False},
    "distances on all channels": {"projection": None},
    "distances on tokens": {"space": "tokens"},
    "neighbours among all clusters": {"reconstruction": "knn"},
    "paper": {"method": "paper"},
    "paper, τ auto": {"method": "paper", "temperature": "auto"},
}


@dataclass(frozen=True)
class Instrument:
    """A trained model, images (N, 3, H, W) as it sees them, and the α and clusters to try."""

    name: str
    model: nn.Module
    images: Tensor
    plans: list[tuple[int, tuple[int, int]]]


def demo_instruments(scenes: int) -> Iterator[Instrument]:
    """The shipped models on scenes of the demo's split."""
    for name, loaded in (("demo Segmenter", demo_model()), ("demo DPT", demo_depth_model())):
        images = [
            normalize(resize(sample.image, loaded.image_size), loaded.mean, loaded.deviation)
            for sample in unseen_scenes(scenes)
        ]
        yield Instrument(
            name, loaded.model, torch.stack(images), [(2, (23, 34)), (2, (16, 24)), (3, (16, 24))]
        )


def own_instrument(checkpoint: Path, data: Path, count: int) -> Instrument:
    """A Segmenter on the two lower corners of `count` images, spread over all there are."""
    loaded, samples = load_model(f"segmenter:{checkpoint}"), open_folder(data, "val", None)
    chosen = range(0, len(samples), max(1, len(samples) // count))[:count]
    images = [window for index in chosen for window in _corners(loaded, samples[index].image)]
    return Instrument(
        checkpoint.parent.name,
        loaded.model,
        torch.stack(images),
        [(2, (20, 20)), (2, (14, 14)), (4, (14, 14)), (4, (10, 10))],
    )


def _corners(loaded: LoadedModel, image: Image) -> list[Tensor]:
    height, width = loaded.image_size
    small = resize_short_side(image, loaded.short_side or height)
    pixels = normalize(small[-height:], loaded.mean, loaded.deviation)
    return [pixels[:, :, :width], pixels[:, :, -width:]]


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """What a model says of images, four at a time."""
    with torch.inference_mode():
        return torch.cat([model(part) for part in images.split(4)])  # type: ignore[no-untyped-call]


def differences(before: Tensor, after: Tensor) -> Tensor:
    """Per image: percent of places of another class (B, classes, h, w), or RMSE of depth."""
    if before.dim() == 3:
        return (after - before).square().mean((1, 2)).sqrt()
    return 100 * (after.argmax(1) != before.argmax(1)).float().mean((1, 2))


def measure(instrument: Instrument) -> Table:
    """One row for each way, one column for each plan."""
    columns = (f"α={alpha}, {rows}×{columns}" for alpha, (rows, columns) in instrument.plans)
    table = Table("way", *columns, title=f"{instrument.name}, {len(instrument.images)} images")
    plain = outputs(instrument.model, instrument.images)
    for way, settings in track(WAYS.items(), instrument.name, transient=True):
        cells = []
        for alpha, clusters in instrument.plans:
            with patched(instrument.model, alpha=alpha, clusters=clusters, **settings):
                found = differences(plain, outputs(instrument.model, instrument.images))
            cells.append(f"{found.mean():.2f} ±{found.std() / sqrt(len(found)):.2f}")
        table.add_row(way, *cells)
    return table


def main(
    checkpoint: Annotated[Path | None, typer.Option(help="Of a Segmenter.")] = None,
    data: Annotated[Path | None, typer.Option(help="What has images/val for it.")] = None,
    count: Annotated[int, typer.Option(help="How many images or scenes.")] = 24,
) -> None:
    """Measure every way on every instrument."""
    instruments = list(demo_instruments(count))
    if checkpoint is not None and data is not None:
        instruments.append(own_instrument(checkpoint, data, count))
    for instrument in instruments:
        Console(width=120).print(measure(instrument))


if __name__ == "__main__":
    typer.run(main)
