"""Tables and a plot of what `accuracy` measured: errors with intervals, and at equal GFLOPs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.instruments import Instrument, draws

Floats = NDArray[np.float64]

BASE, OURS = "unpatched", "expedite"
RIVALS = {
    "the paper, best of four τ": ("paper, τ 50", "paper, τ 5", "paper, τ 1", "paper, τ auto"),
    "ToMe once": ("ToMe once",),
    "ToMe once, delta": ("ToMe once, delta",),
    "ToMe once, our reconstruction": ("ToMe once, our reconstruction",),
    "ToMe in blocks": ("ToMe in blocks",),
    "ToMe, best form": (
        "ToMe once",
        "ToMe once, delta",
        "ToMe once, our reconstruction",
        "ToMe in blocks",
    ),
    "pooling, bilinear": ("pooling, bilinear",),
    "pooling, our reconstruction": ("pooling, our reconstruction",),
    "our clusters, bilinear": ("our clusters, bilinear",),
    "EViT": ("EViT",),
    "downsampling": ("downsampling",),
}
# A curve is gone on with by so much of its GFLOPs where the ways' operators cost differently.
_BEYOND = 0.05


class Measured(Protocol):
    """What `accuracy` keeps of a way."""

    gflops: Floats
    fidelity: Floats
    metric: Floats


@dataclass(frozen=True)
class Curves:
    """Errors of one instrument: of all images first, then of draws of them."""

    instrument: Instrument
    alphas: Sequence[int]
    keeps: Sequence[float]
    gflops: Mapping[str, Floats]  # of each way (α, keep)
    errors: Mapping[str, Floats]  # (α, keep, 1 + draws), to the unpatched model
    metric: Mapping[str, Floats]  # the same, to the truth

    @classmethod
    def of(
        cls,
        instrument: Instrument,
        alphas: Sequence[int],
        keeps: Sequence[float],
        ways: Mapping[str, Measured],
    ) -> "Curves":
        def errors(counts: Floats) -> Floats:
            # Views of one image are no two images: they are drawn together.
            of_images = counts.reshape(len(counts), -1, instrument.views, *counts.shape[2:]).sum(2)
            found = np.stack([draws(point, instrument.error) for point in of_images])
            return found.reshape(-1, len(keeps) if len(counts) > 1 else 1, found.shape[1])

        return cls(
            instrument,
            alphas,
            keeps,
            {
                name: way.gflops.reshape(-1, len(keeps) if len(way.gflops) > 1 else 1)
                for name, way in ways.items()
            },
            {name: errors(way.fidelity) for name, way in ways.items()},
            {name: errors(way.metric) for name, way in ways.items()},
        )

    @property
    def unit(self) -> str:
        """Of errors."""
        return self.instrument.unit

    def at(self, way: str, row: int, gflops: float) -> Floats | None:
        """The error (1 + draws,) of a way at so many GFLOPs, None beyond its curve.

        Between two points the logarithm of the error is taken for linear in GFLOPs.
        """
        x, y = self.gflops[way][row], np.log(np.maximum(self.errors[way][row], 1e-6))
        order = x.argsort()
        x, y = x[order], y[order]
        slack = _BEYOND * gflops
        if not x[0] - slack <= gflops <= x[-1] + slack:
            return None
        if len(x) == 1:
            return np.asarray(np.exp(y[0]))
        right = int(np.clip(np.searchsorted(x, gflops), 1, len(x) - 1))
        share = (gflops - x[right - 1]) / max(x[right] - x[right - 1], 1e-9)
        return np.asarray(np.exp((1 - share) * y[right - 1] + share * y[right]))


@dataclass(frozen=True)
class Comparison:
    """Our error over a rival's at equal GFLOPs, one entry a point where both are to be had."""

    ratios: Floats  # (points, 1 + draws)

    @property
    def middle(self) -> str:
        """The median over points, with its 95 % interval."""
        return _with_interval(np.median(self.ratios, axis=0))

    @property
    def worst(self) -> Floats:
        """The ratio (1 + draws,) at the worst point."""
        return np.asarray(self.ratios[self.ratios[:, 0].argmax()])

    @property
    def behind(self) -> str:
        """At how many points we are behind by more than the interval."""
        lower = np.quantile(self.ratios[:, 1:], 0.025, axis=1)
        return f"{int((lower > 1).sum())} of {len(self.ratios)}"

    @property
    def other_way_round(self) -> "Comparison":
        """The rival's error over ours."""
        return Comparison(1 / self.ratios)


def _with_interval(values: Floats) -> str:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:.2f} ({low:.2f} to {high:.2f})"


def compare(curves: Curves, ways: Sequence[str], keeps: Sequence[float]) -> Comparison | None:
    """Our error over that of the best of some ways, at every α and at these shares of tokens."""
    ratios = []
    for row, column in np.ndindex(len(curves.alphas), len(curves.keeps)):
        if curves.keeps[column] not in keeps:
            continue
        gflops = float(curves.gflops[OURS][row, column])
        found = [curves.at(way, row, gflops) for way in ways if way in curves.errors]
        there = [one for one in found if one is not None]
        if there:
            best = min(there, key=lambda one: float(one[0]))
            ratios.append(np.maximum(curves.errors[OURS][row, column], 1e-6) / best)
    return Comparison(np.stack(ratios)) if ratios else None


def write_report(
    out: Path, found: Mapping[str, tuple[Any, ...]], keeps: Sequence[float], withheld: str
) -> None:
    """Write accuracy.md, accuracy.png and, for `leaderboard`, accuracy.json.

    Args:
        out: Folder.
        found: Of each instrument itself, its α and what was measured by way.
        keeps: Shares of the tokens.
        withheld: The instrument that no default was chosen on.
    """
    every = {
        name: Curves.of(instrument, alphas, keeps, ways)
        for name, (instrument, alphas, ways) in found.items()
    }
    titled = {f"{name} (withheld)" if name == withheld else name: every[name] for name in every}
    lines = [*_of_rivals(titled), *_of_shares(titled), *_of_parts(titled)]
    for title, curves in titled.items():
        lines += [*_against_rivals(title, curves), *_errors(title, curves)]
    (out / "accuracy.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    records = {name: list(points(curves)) for name, curves in every.items()}
    (out / "accuracy.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    _plot(every, out / "accuracy.png")


def _of_rivals(every: Mapping[str, Curves]) -> Iterator[str]:
    yield "## Our error over that of others at equal GFLOPs, at most half of the tokens kept\n"
    yield "The median of points with its 95 % interval; the worst; where we are behind by more."
    yield from _header("other", every)
    for rival, ways in RIVALS.items():
        found = (compare(curves, ways, _few(curves)) for curves in every.values())
        cells = (f"{one.middle}; {one.worst[0]:.2f}; {one.behind}" if one else "–" for one in found)
        yield f"| {rival} | {' | '.join(cells)} |"


def _of_shares(every: Mapping[str, Curves]) -> Iterator[str]:
    rival, ways = next(iter(RIVALS.items()))
    yield f"\n## Our error over that of {rival}, by the share of tokens that is kept\n"
    yield "The median over α, and the worst."
    yield from _header("kept", every)
    for keep in _few(next(iter(every.values()))):
        found = (compare(curves, ways, [keep]) for curves in every.values())
        cells = (
            f"{np.median(one.ratios[:, 0]):.2f}; {one.worst[0]:.2f}" if one else "–"
            for one in found
        )
        yield f"| {100 * keep:.0f} % | {' | '.join(cells)} |"


def _of_parts(every: Mapping[str, Curves]) -> Iterator[str]:
    yield "\n## The error with one part changed over ours, at equal GFLOPs\n"
    yield "Above 1 the default is better. The median of points with its 95 % interval."
    yield from _header("changed", every)
    for way in dict.fromkeys(way for curves in every.values() for way in _settings(curves)):
        found = (compare(curves, (way,), _few(curves)) for curves in every.values())
        cells = (one.other_way_round.middle if one else "–" for one in found)
        yield f"| {way} | {' | '.join(cells)} |"


def _header(first: str, every: Mapping[str, Curves]) -> Iterator[str]:
    yield f"\n| {first} | {' | '.join(every)} |"
    yield "|---|" + "---|" * len(every)


def _few(curves: Curves) -> list[float]:
    """The shares of tokens that goals are about."""
    return [keep for keep in curves.keeps if keep <= 0.5]


def _settings(curves: Curves) -> list[str]:
    """The ways that are ours with one part changed."""
    rivals = {way for ways in RIVALS.values() for way in ways}
    return [way for way in curves.errors if way not in {BASE, OURS} | rivals]


def _against_rivals(title: str, curves: Curves) -> Iterator[str]:
    yield f"\n## {title}: expedite's error over that of others at equal GFLOPs, at most half kept\n"
    yield "| other | median of points (95 %) | worst point (95 %) | behind |"
    yield "|---|---|---|---|"
    changed = {f"expedite, {way}": (way,) for way in _settings(curves)}
    for rival, ways in {**RIVALS, **changed}.items():
        one = compare(curves, ways, _few(curves))
        cells = (one.middle, _with_interval(one.worst), one.behind) if one else ("–",) * 3
        yield f"| {rival} | {' | '.join(cells)} |"


def _errors(title: str, curves: Curves) -> Iterator[str]:
    base = curves.metric[BASE][0, 0]
    of_base = f"{base[0]:.2f} ± {base[1:].std():.2f} {curves.unit}"
    for row, alpha in enumerate(curves.alphas):
        yield (
            f"\n### {title}, α={alpha}: error to the unpatched model in {curves.unit}, ± its "
            f"deviation over draws; in brackets the change of the error to the truth ({of_base})\n"
        )
        yield "| way | " + " | ".join(f"{100 * keep:.0f} %" for keep in curves.keeps) + " |"
        yield "|---|" + "---|" * len(curves.keeps)
        yield (
            "| GFLOPs of expedite | "
            + " | ".join(f"{gflops:.2f}" for gflops in curves.gflops[OURS][row])
            + " |"
        )
        for way in curves.errors:
            if way != BASE:
                yield f"| {way} | " + " | ".join(_cells(curves, way, row)) + " |"


def points(curves: Curves) -> Iterator[dict[str, Any]]:
    """Every way at every α and share with its error, as the tables have them, for files."""
    base = curves.metric[BASE][0, 0]
    for way in (way for way in curves.errors if way != BASE):
        for row, alpha in enumerate(curves.alphas):
            for column, keep in enumerate(curves.keeps):
                error = curves.errors[way][row, column]
                yield {
                    "way": way,
                    "alpha": int(alpha),
                    "keep": float(keep),
                    "gflops": round(float(curves.gflops[way][row, column]), 2),
                    "error": round(float(error[0]), 2),
                    "spread": round(float(error[1:].std()), 2),
                    "lost": round(float(curves.metric[way][row, column, 0] - base[0]), 2),
                }


def _cells(curves: Curves, way: str, row: int) -> Iterator[str]:
    base = curves.metric[BASE][0, 0]
    for error, metric in zip(curves.errors[way][row], curves.metric[way][row], strict=True):
        change = metric[0] - base[0]
        yield f"{error[0]:.2f} ±{error[1:].std():.2f} ({change:+.2f})"


_DRAWN = (OURS, "paper, τ auto", "ToMe once", "ToMe once, delta", "pooling, bilinear", "EViT")


def _plot(every: Mapping[str, Curves], path: Path) -> None:
    columns = min(3, len(every))
    rows = -(-len(every) // columns)
    figure = Figure(figsize=(5 * columns, 4.2 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for left_over in panels[len(every) :]:
        left_over.remove()
    for panel, (name, curves) in zip(panels, every.items(), strict=False):
        for way in _DRAWN:
            if way in curves.errors:
                y = curves.errors[way][0]
                low, high = np.quantile(y[:, 1:], [0.025, 0.975], axis=1)
                panel.plot(curves.gflops[way][0], y[:, 0], "o-", label=way, markersize=4)
                panel.fill_between(curves.gflops[way][0], low, high, alpha=0.15)
        panel.set(
            title=f"{name}, α={curves.alphas[0]}",
            xlabel="GFLOPs (multiply-adds)",
            ylabel=f"error to the unpatched model, {curves.unit}",
            yscale="log",
        )
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
