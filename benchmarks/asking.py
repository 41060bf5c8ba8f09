"""Which way of asking keeps more of a ViT-Adapter, where an injector's ViT side is clustered.

    python -m benchmarks.asking --checkpoint adapter/checkpoint.pth --data DIR --count 50

Injectors ask with the clusters, each from the mean of its tokens' places, or with the reconstructed
tokens, and each cluster is given the mean of what was added to its own. Measured on the images in
DIR/images/val against the same model unpatched: fidelity, the share of pixels of another class with
its standard error over images, and mIoU where there are labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import sqrt
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from expedite.data.datasets import open_folder
from expedite.data.truths import LABEL_RULES, LabelRule, Sample
from expedite.errors import ExpediteError
from expedite.evaluate.predict import predict
from expedite.loading import LoadedModel, load_model
from expedite.measure.flops import count_flops
from expedite.measure.metrics import Agreement
from expedite.patching import patched
from expedite.patching.families import find_hosts
from expedite.patching.host import Host, Injection

ALPHAS = (2, 3, 4, 6)
SHARES = (0.51, 0.35, 0.25)


@dataclass(frozen=True)
class Instrument:
    """A model, images with labels, and what it says of them unpatched."""

    loaded: LoadedModel
    samples: list[Sample]
    plain: list[Tensor]
    classes: int


def instrument(checkpoint: Path, data: Path, count: int) -> Instrument:
    """A ViT-Adapter on `count` images, spread over all there are."""
    loaded = load_model(f"vit_adapter:{checkpoint}")
    rule = LABEL_RULES.get(loaded.dataset, LabelRule())
    samples = list(open_folder(data, "val", rule, limit=count))
    with torch.inference_mode():
        classes = loaded.model(torch.zeros(1, 3, *loaded.image_size)).shape[1]
    return Instrument(loaded, samples, answers(loaded, samples), classes)


def answers(loaded: LoadedModel, samples: list[Sample]) -> list[Tensor]:
    """The class of each pixel of each image."""
    return [predict(loaded, loaded.model, sample.image).indices for sample in samples]


def ways(model: nn.Module) -> Iterator[tuple[str, Host]]:
    """The host as it is, and the one whose injectors ask with reconstructed tokens."""
    ((_, host),) = find_hosts(model)
    if all(injection.places is None for injection in host.injections):
        raise ExpediteError(f"a {host.family} can ask with reconstructed tokens alone")
    yield "clusters", host
    at_tokens = tuple(Injection(injection.module) for injection in host.injections)
    yield "tokens", replace(host, injections=at_tokens)


def row(it: Instrument) -> list[str]:
    """GFLOPs of a window, fidelity, pixels that differ and mIoU of the model as it is now."""
    fidelity, against, differ = Agreement(it.classes), Agreement(it.classes), []
    found = answers(it.loaded, it.samples)
    for sample, before, after in zip(it.samples, it.plain, found, strict=True):
        fidelity.add(before, after)
        differ.append(100 * (before != after).float().mean())
        if sample.labels is not None:
            against.add(torch.from_numpy(sample.labels), after)
    shares = torch.stack(differ)
    window = torch.zeros(1, 3, *it.loaded.image_size)
    return [
        f"{count_flops(it.loaded.model, window).total:.2f}",
        f"{100 * fidelity.mean_iou():.1f}",
        f"{shares.mean():.2f} ±{shares.std() / sqrt(len(shares)):.2f}",
        f"{100 * against.mean_iou():.1f}",
    ]


def main(
    checkpoint: Annotated[Path, typer.Option(help="Of a ViT-Adapter.")],
    data: Annotated[Path, typer.Option(help="What has images/val for it.")],
    count: Annotated[int, typer.Option(help="How many images.")] = 50,
) -> None:
    """Print a line for each plan and way."""
    it = instrument(checkpoint, data, count)
    table = Table("plan", "asks with", "GFLOPs", "fidelity %", "other pixels %", "mIoU %")
    table.add_row("unpatched", "", *row(it))
    plans = product(ALPHAS, SHARES, ways(it.loaded.model))
    for alpha, keep, (way, host) in track(list(plans), transient=True):
        with patched(it.loaded.model, alpha=alpha, keep=keep, host=host):
            table.add_row(f"α={alpha}, {keep:.0%}", way, *row(it))
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
