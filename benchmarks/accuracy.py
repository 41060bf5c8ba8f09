"""What each part of a plan brings and how rivals do, with the same blocks on as many tokens.

    python -m benchmarks.accuracy --out DIR
    python -m benchmarks.accuracy --out DIR --own NAME=segmenter:FILE --data FOLDER --withheld NAME

The instruments are the demo's Segmenter and DPT on generated scenes that they never saw; the
second command adds models of one's own on FOLDER/images/val with its annotations: one folder for
all, or one `--data` for each `--own`. Every way runs from a quarter, a third and half of the depth
on, on 75 to 13 % of the tokens. What was measured is kept in DIR, so that a run that was stopped
goes on; another model needs another DIR or NAME. DIR/accuracy.md has the tables, DIR/accuracy.png
the plot. An instrument that is withheld had no part in choosing defaults, and is reported as such.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.accuracy_report import write_report
from benchmarks.cases import papers_nearest
from benchmarks.instruments import Instrument, demo_instruments, own_instrument
from expedite.errors import ExpediteError
from expedite.evaluate.comparators import plan_of
from expedite.measure.flops import count_flops
from expedite.patching import patched
from expedite.patching.families import find_hosts
from expedite.patching.host import Host
from expedite.plan import Plan, Span

KEEPS = (0.75, 0.5, 0.35, 0.25, 0.13)

# A name, the method and its settings; γ blocks at the end run at full resolution.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "expedite": ("expedite", {}),
    "clusters stay in place": ("expedite", {"relocated": 0.0}),
    "half of the clusters may move": ("expedite", {"relocated": 0.5}),
    "soft last step": ("expedite", {"hard": False}),
    "locally linear weights": ("expedite", {"weights": "linear"}),
    "softmax weights": ("expedite", {"weights": "softmax"}),
    "no delta": ("expedite", {"delta": False}),
    "no log-mass attention": ("expedite", {"log_mass": False}),
    "distances on all channels": ("expedite", {"projection": None}),
    "distances on hashed channels": ("expedite", {"basis": "hashed"}),
    "distances on norms": ("expedite", {"space": "norm"}),
    "distances on tokens as they are": ("expedite", {"space": "tokens"}),
    "plain means": ("expedite", {"sharpness": 0.0}),
    "centroids of their own length": ("expedite", {"length": 0.0}),
    "as before: hashed norms, plain means": (
        "expedite",
        {"basis": "hashed", "space": "norm", "sharpness": 0.0, "length": 0.0},
    ),
    "kriging over all clusters": ("expedite", {"reconstruction": "knn"}),
    "2 EM steps": ("expedite", {"iterations": 2}),
    "EM over 7×7 cells": ("expedite", {"neighborhood": 7}),
    "γ=1": ("expedite", {"gamma": 1}),
    "paper, τ 50": ("paper", {}),
    "paper, τ 5": ("paper", {"temperature": 5.0}),
    "paper, τ 1": ("paper", {"temperature": 1.0}),
    "paper, τ auto": ("paper", {"temperature": "auto"}),
    "pooling, bilinear": ("pool", {}),
    "pooling, our reconstruction": ("pool+weights", {}),
    "our clusters, bilinear": ("clusters+bilinear", {}),
    "ToMe once": ("tome", {}),
    "ToMe once, delta": ("tome+delta", {}),
    "ToMe once, our reconstruction": ("tome+weights", {}),
    "ToMe in blocks": ("tome-blocks", {}),
    "EViT": ("evit", {}),
    "downsampling": ("downsample", {}),
}


@dataclass(frozen=True)
class Measured:
    """Counts of every point of a way; NaN throughout where the host refuses it.

    Points are α by α, in each the shares of tokens as `KEEPS` has them.
    """

    gflops: NDArray[np.float64]  # (points,)
    fidelity: NDArray[np.float64]  # (points, images, ...)
    metric: NDArray[np.float64]  # (points, images, ...)

    def is_of(self, instrument: Instrument) -> bool:
        """Whether as many images were counted as the instrument has now."""
        return len(self.metric[0]) == len(instrument.images)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **vars(self))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Measured":
        """Read what `save` wrote."""
        with np.load(path) as stored:
            return cls(**stored)


def host_of(instrument: Instrument) -> Host:
    """The blocks that plans are about."""
    return next(iter(find_hosts(instrument.loaded.model)))[1]


def alphas_of(depth: int) -> list[int]:
    """A quarter, a third and half of the depth, those that are the same in a shallow model once."""
    return sorted({round(depth / part) for part in (4, 3, 2)})


def plans(way: str, host: Host) -> Iterator[Plan]:
    """The plans of a way, in the order of `Measured`."""
    method, settings = WAYS[way]
    settings = dict(settings)
    gamma = settings.pop("gamma", 0)
    for alpha in alphas_of(len(host.blocks)):
        for keep in KEEPS:
            settings |= _nearest(host, keep) if method == "paper" else {}
            plan = plan_of(method, alpha, keep=keep, **settings)
            if gamma:
                ((_, _, end),) = plan.ranges(host.depth)  # of the stage, where there are stages
                plan = plan_of(method, alpha, keep=keep, beta=end - alpha - gamma, **settings)
            yield plan


def _nearest(host: Host, keep: float) -> dict[str, int]:
    if host.window is None:
        return {}
    rows, columns = Span(0, keep=keep).grid_for(host.window)
    return papers_nearest(rows * columns)


def measure(instrument: Instrument, way: str, plain: torch.Tensor) -> Measured | None:
    """Run an instrument in one way at every point; None where its host refuses the way."""
    model = instrument.loaded.model
    gflops, fidelity, metric = [], [], []
    for plan in plans(way, host_of(instrument)):
        try:
            with patched(model, plan):
                answers = instrument.answers()
                gflops.append(count_flops(model, instrument.images[:1]).total)
        except ExpediteError as refusal:
            print(f"{instrument.name}, {way}: {refusal}")
            return None
        fidelity.append(instrument.counts(plain, answers))
        metric.append(instrument.counts(instrument.truth, answers))
    return Measured(np.array(gflops), np.stack(fidelity), np.stack(metric))


def unpatched(instrument: Instrument, plain: torch.Tensor) -> Measured:
    """The unpatched model, as a way of one point."""
    own = instrument.counts(plain, plain)
    metric = instrument.counts(instrument.truth, plain)
    gflops = count_flops(instrument.loaded.model, instrument.images[:1]).total
    return Measured(np.array([gflops]), own[None], metric[None])


def run(instrument: Instrument, folder: Path) -> dict[str, Measured]:
    """Measure what the folder does not hold yet."""
    plain = instrument.answers()
    unpatched(instrument, plain).save(folder / "unpatched.npz")
    for way in track(WAYS, instrument.name):
        path, refused = (folder / f"{way}.{kind}" for kind in ("npz", "refused"))
        if refused.exists() or (path.exists() and Measured.load(path).is_of(instrument)):
            continue
        if (measured := measure(instrument, way, plain)) is None:
            refused.touch()
        else:
            measured.save(path)
    names = [name for name in ("unpatched", *WAYS) if (folder / f"{name}.npz").exists()]
    return {name: Measured.load(folder / f"{name}.npz") for name in names}


def instruments(own: list[str], data: list[Path], count: int) -> Iterator[Instrument]:
    """The demo's, then those of one's own, each NAME=MODEL."""
    folders = data * len(own) if len(data) == 1 else data
    if len(folders) != len(own):
        raise typer.BadParameter("--data is due once, or once for each --own")
    yield from demo_instruments(count)
    for entry, folder in zip(own, folders, strict=True):
        name, _, model = entry.partition("=")
        yield own_instrument(name, model, folder, count)


def main(
    out: Annotated[Path, typer.Option(help="Where counts, tables and the plot go.")],
    own: Annotated[list[str] | None, typer.Option(help="NAME=MODEL; may be repeated.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="What has images/val for them, or for each of them.")
    ] = None,
    withheld: Annotated[str, typer.Option(help="The name of one of them.")] = "",
    count: Annotated[int, typer.Option(help="How many images or scenes.")] = 24,
) -> None:
    """Measure every way on every instrument, then write tables and a plot."""
    found = {}
    for instrument in instruments(own or [], data or [], count):
        alphas = alphas_of(len(host_of(instrument).blocks))
        found[instrument.name] = (instrument, alphas, run(instrument, out / instrument.name))
    write_report(out, found, KEEPS, withheld)


if __name__ == "__main__":
    typer.run(main)
