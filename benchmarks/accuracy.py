"""What each part of a plan brings and how rivals do, with the same blocks on as many tokens.

    python -m benchmarks.accuracy --out DIR
    python -m benchmarks.accuracy --out DIR --own NAME=segmenter:FILE --data FOLDER --withheld NAME
    python -m benchmarks.accuracy --out DIR --real CAMVID --instrument dinov2-error \
        --alphas 3 --keeps 0.25 --plan 'on tokens={"space": "tokens"}' --way paper

The instruments are the demo's Segmenter and DPT on generated scenes that they never saw; the
second command adds models of one's own on FOLDER/images/val with its annotations: one folder for
all, or one `--data` for each `--own`. `--real` adds a trained DINOv2-S with its heads
(`real_instruments`). Every way runs from a quarter, a third and half of the depth on, real
instruments from an eighth on too, on 75 to 13 % of the tokens.

The third command takes some instruments, ways and points alone, by how their names begin, and adds
a plan of one's own: expedite's with other settings, or {"method": ...}. What was measured is kept
in DIR, so that a run that was stopped goes on, plans of one's own apart; another model, dtype or
code needs another DIR. bfloat16 is thrice as fast where a CPU has it, and errs by 0.02 %
itself, enough to choose by. `--before DIR` sets the default that another run measured beside it.
DIR/accuracy.md has the tables, DIR/accuracy.png the plot. An instrument that is withheld had no
part in choosing defaults, and is reported as such.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product, repeat
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.accuracy_report import BASE, OURS, write_report
from benchmarks.calibrated import CALIBRATED
from benchmarks.cases import papers_nearest
from benchmarks.instruments import (
    DEMOS,
    Instrument,
    answers_of,
    demo_instrument,
    own_instrument,
)
from benchmarks.memory import Memory
from benchmarks.real_instruments import Kind, kinds
from expedite.errors import ExpediteError
from expedite.evaluate.comparators import plan_of
from expedite.patching import patched
from expedite.patching.families import find_hosts
from expedite.patching.host import Host
from expedite.plan import Plan, Span

Group = Sequence[Instrument]  # of one model on the same images
Way = tuple[str, Mapping[str, Any]]
Point = tuple[int, float]  # α and the share of tokens that is kept

KEEPS = (0.75, 0.5, 0.35, 0.25, 0.13)

# A name, the method and its settings; γ blocks at the end run at full resolution.
WAYS: dict[str, Way] = {
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
    "calibrated": ("expedite", {"calibration": str(CALIBRATED)}),  # other models refuse it
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
    """Counts of every point of a way."""

    points: NDArray[np.float64]  # (points, 2): α and the share of tokens
    gflops: NDArray[np.float64]  # (points,)
    fidelity: NDArray[np.float64]  # (points, images, ...)
    metric: NDArray[np.float64]  # (points, images, ...)

    def at(self, points: Sequence[Point]) -> "Measured | None":
        """These points in their order; None where one of them is not there."""
        places = {(int(alpha), keep): row for row, (alpha, keep) in enumerate(self.points)}
        if not set(points) <= set(places):
            return None
        rows = [places[point] for point in points]
        return Measured(*(each[rows] for each in vars(self).values()))

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

    @classmethod
    def join(cls, parts: Sequence["Measured"]) -> "Measured":
        """The points of all."""
        found = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(np.concatenate(each) for each in found))


def host_of(instrument: Instrument) -> Host:
    """The blocks that plans are about."""
    return next(iter(find_hosts(instrument.loaded.model)))[1]


def alphas_of(instrument: Instrument) -> list[int]:
    """Where spans begin: the instrument's own, or a quarter, a third and half of the depth.

    Those that are the same in a shallow model come once.
    """
    depth = len(host_of(instrument).blocks)
    return sorted(instrument.alphas or {round(depth / part) for part in (4, 3, 2)})


def plan_at(way: Way, host: Host, point: Point) -> Plan:
    """The plan of a way at a point."""
    (method, given), (alpha, keep) = way, point
    settings = dict(given)
    gamma = settings.pop("gamma", 0)
    if "calibration" in settings:  # one file for each α
        settings["calibration"] = settings["calibration"].format(alpha=alpha)
    if method == "paper":
        settings |= _nearest(host, keep)
    plan = plan_of(method, alpha, keep=keep, **settings)
    if not gamma:
        return plan
    ((_, _, end),) = plan.ranges(host.depth)  # of the stage, where there are stages
    return plan_of(method, alpha, keep=keep, beta=end - alpha - gamma, **settings)


def _nearest(host: Host, keep: float) -> dict[str, int]:
    """The paper's 20 nearest clusters are more than a small window has."""
    if host.window is None:
        return {}
    rows, columns = Span(0, keep=keep).grid_for(host.window)
    return papers_nearest(rows * columns)


def measure(
    group: Group, way: Way, points: Sequence[Point], plain: Sequence[torch.Tensor], memory: Memory
) -> list[Measured]:
    """Run a group in one way at some points.

    Raises:
        ExpediteError: Its host refuses the way.
    """
    host, found = host_of(group[0]), []
    for point in points:
        with patched(group[0].loaded.model, plan_at(way, host, point)):
            # The block before α runs for those that read its queries and keys.
            with memory.of_first(max(0, point[0] - 1)):
                answers = answers_of(group)
            gflops = [instrument.gflops() for instrument in group]
        rows = zip(group, repeat(point, len(group)), gflops, plain, answers, strict=True)
        found.append([_counted(*row) for row in rows])
    return [Measured.join(points) for points in zip(*found, strict=True)]


def _counted(
    instrument: Instrument,
    point: Point,
    gflops: float,
    plain: torch.Tensor,
    answers: torch.Tensor,
) -> Measured:
    """One point; where nobody knows the truth, the unpatched model's answers stand in its place."""
    truth = plain if instrument.truth is None else instrument.truth
    fidelity, metric = (instrument.counts(one, answers)[None] for one in (plain, truth))
    return Measured(np.array([point]), np.array([gflops]), fidelity, metric)


class Bench:
    """Instruments that share a model and images, and a folder for what is measured of them."""

    def __init__(self, group: Group, folder: Path) -> None:
        self.group, self.folder = group, folder
        host = host_of(group[0])
        self.memory = Memory(host.blocks, group[0].kept)
        seen = len(self.memory.known)
        with self.memory.of_first(len(host.blocks)):
            self.plain = answers_of(group)
        if len(self.memory.known) > seen:
            self.memory.save()
        for instrument, answers in zip(group, self.plain, strict=True):
            whole = _counted(instrument, (0, 1.0), instrument.gflops(), answers, answers)
            whole.save(_path(folder, instrument, BASE))

    def run(self, name: str, way: Way, points: Sequence[Point], afresh: bool) -> None:
        """Measure the points of a way that the folder does not hold yet, or all of them afresh."""
        before = [
            None if afresh else read(self.folder, instrument, name) for instrument in self.group
        ]
        missing = [point for point in points if not all(one and one.at([point]) for one in before)]
        if not missing:
            return
        try:
            found = measure(self.group, way, missing, self.plain, self.memory)
        except ExpediteError as refusal:
            print(f"{self.group[0].name}, {name}: {refusal}")
            return
        for instrument, old, new in zip(self.group, before, found, strict=True):
            Measured.join([old, new] if old else [new]).save(_path(self.folder, instrument, name))


def read(folder: Path, instrument: Instrument, way: str) -> Measured | None:
    """What a folder holds of a way, if it is of as many images as the instrument has now."""
    path = _path(folder, instrument, way)
    measured = Measured.load(path) if path.exists() else None
    return measured if measured and measured.is_of(instrument) else None


def _path(folder: Path, instrument: Instrument, way: str) -> Path:
    return folder / instrument.name / f"{way}.npz"


@dataclass(frozen=True)
class Source:
    """Instruments that share a model and images, by their names, made when they are asked for."""

    names: Sequence[str]
    make: Callable[[Sequence[str]], Group]


def sources(
    own: Sequence[str], data: Sequence[Path], real: Path | None, count: int, dtype: torch.dtype
) -> Iterator[Source]:
    """The demo's, then those of one's own, each NAME=MODEL, then the real ones in a dtype."""
    folders = list(data) * len(own) if len(data) == 1 else data
    if len(folders) != len(own):
        raise typer.BadParameter("--data is due once, or once for each --own")
    for name in DEMOS:
        yield Source([name], lambda names: [demo_instrument(names[0], count)])
    for entry, folder in zip(own, folders, strict=True):
        name, _, model = entry.partition("=")
        yield Source([name], partial(_own, model, folder, count))
    for kind in kinds(real) if real else ():
        readers = {kind.name_of(reader): reader for reader in kind.readers}
        yield Source(list(readers), partial(_real, kind, readers, count, dtype))


def _own(model: str, folder: Path, count: int, names: Sequence[str]) -> Group:
    return [own_instrument(names[0], model, folder, count)]


def _real(
    kind: Kind,
    readers: Mapping[str, str],
    count: int,
    dtype: torch.dtype,
    names: Sequence[str],
) -> Group:
    return kind.group([readers[name] for name in names], count, dtype)


def plans_of(entries: Iterable[str]) -> dict[str, Way]:
    """Ways of one's own, each NAME=JSON."""
    found: dict[str, Way] = {}
    for entry in entries:
        name, _, text = entry.partition("=")
        try:
            settings = dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise typer.BadParameter(
                f"the plan {entry} was given; NAME={{...}} in JSON is due: {error}"
            ) from error
        found[name] = (settings.pop("method", OURS), settings)
    return found


def _begin_with(names: Iterable[str], beginnings: Sequence[str], what: str) -> list[str]:
    """Those of some names that begin as one of those asked; all where none is asked."""
    names = list(names)
    found = [name for name in names if name.startswith(tuple(beginnings or [""]))]
    if not found:
        asked = ", ".join(beginnings)
        raise typer.BadParameter(f"no {what} is called {asked}; there are {', '.join(names)}")
    return found


@dataclass(frozen=True)
class Asked:
    """What is measured of every instrument.

    Args:
        ways: By name.
        mine: Further ones, which are measured even where the folder holds them.
        alphas: Where spans begin; none for the instrument's own.
        keeps: Shares of tokens.
    """

    ways: Mapping[str, Way]
    mine: Mapping[str, Way]
    alphas: Sequence[int]
    keeps: Sequence[float]

    def alphas_of(self, instrument: Instrument) -> list[int]:
        """Where spans begin."""
        return list(self.alphas) or alphas_of(instrument)

    def measure(self, bench: Bench) -> None:
        """All ways at all points."""
        points = list(product(self.alphas_of(bench.group[0]), self.keeps))
        names = ", ".join(instrument.name for instrument in bench.group)
        for name, way in track({**self.ways, **self.mine}.items(), names):
            bench.run(name, way, points, afresh=name in self.mine)

    def found(
        self, instrument: Instrument, folder: Path, before: Path | None
    ) -> dict[str, Measured]:
        """What a folder holds of an instrument: the ways that have all points."""
        points = list(product(self.alphas_of(instrument), self.keeps))
        found = {BASE: read(folder, instrument, BASE)}
        for name in (*WAYS, *self.mine):
            one = read(folder, instrument, name)
            found[name] = one and one.at(points)
        if before is not None:
            one = read(before, instrument, OURS)
            found["expedite before"] = one and one.at(points)
        return {name: one for name, one in found.items() if one}


def _dtype(name: str) -> torch.dtype:
    if name not in ("float32", "bfloat16"):
        raise typer.BadParameter(f"the dtype {name} was asked; float32 and bfloat16 can be had")
    found: torch.dtype = getattr(torch, name)
    return found


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part]


def main(
    out: Annotated[Path, typer.Option(help="Where counts, tables and the plot go.")],
    own: Annotated[list[str] | None, typer.Option(help="NAME=MODEL; may be repeated.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="What has images/val for them, or for each of them.")
    ] = None,
    real: Annotated[Path | None, typer.Option(help="CamVid, for the real instruments.")] = None,
    withheld: Annotated[str, typer.Option(help="The name of one of them.")] = "",
    count: Annotated[int, typer.Option(help="How many images or scenes, at most.")] = 28,
    instrument: Annotated[list[str] | None, typer.Option(help="How names begin.")] = None,
    way: Annotated[list[str] | None, typer.Option(help="How names begin.")] = None,
    plan: Annotated[list[str] | None, typer.Option(help="NAME=JSON, always measured.")] = None,
    alphas: Annotated[str, typer.Option(help="Of them, some alone.")] = "",
    keeps: Annotated[str, typer.Option(help="Shares of tokens.")] = ",".join(map(str, KEEPS)),
    before: Annotated[Path | None, typer.Option(help="Where another run's counts are.")] = None,
    dtype: Annotated[str, typer.Option(help="Of the real ones: float32 or bfloat16.")] = "float32",
    threads: Annotated[int, typer.Option(help="Of PyTorch; 0 for its default.")] = 0,
) -> None:
    """Measure every way on every instrument, then write tables and a plot."""
    if threads:
        torch.set_num_threads(threads)
    every = list(sources(own or [], data or [], real, count, _dtype(dtype)))
    names = [name for source in every for name in source.names]
    chosen = _begin_with(names, instrument or [], "instrument")
    usual = [OURS, *_begin_with(WAYS, way or [], "way")]
    spans = [int(alpha) for alpha in _numbers(alphas)]
    asked = Asked(
        {name: WAYS[name] for name in usual}, plans_of(plan or []), spans, _numbers(keeps)
    )
    found = {}
    for source in every:
        if of_it := [name for name in source.names if name in chosen]:
            bench = Bench(source.make(of_it), out)
            asked.measure(bench)
            for one in bench.group:
                found[one.name] = one, asked.alphas_of(one), asked.found(one, out, before)
    write_report(out, found, asked.keeps, withheld)


if __name__ == "__main__":
    typer.run(main)
