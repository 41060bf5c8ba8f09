"""Rows for people: a table in the terminal, plots, and one page that needs nothing beside it."""

import base64
import io
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from expedite.evaluate.results import Results, flat, replacing
from expedite.evaluate.sweep import Row

COUNTING = "GFLOPs count multiply-adds, those of clustering and reconstruction included."
TIMING = (
    "FPS at batch 1. A speed-up is the median over pairs of runs in turn, with its quartiles; the "
    "unpatched model was timed against itself."
)
_FRONT = "Shaded rows: no other plan has both fewer GFLOPs and a higher {metric}."
# Okabe and Ito's colours, distinct to every kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_METRICS = {"miou": "mIoU", "fidelity": "fidelity"}
_AXES = {"gflops": "GFLOPs", "fps": "FPS"}


@dataclass(frozen=True)
class Picture:
    """A PNG file that belongs into the page."""

    title: str
    path: Path


def terminal_table(results: Results) -> Table:
    """The rows as a table of rich."""
    title = str(results.request.get("model", ""))
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for name in _TERMINAL_COLUMNS:
        table.add_column(name, justify="left" if name == "plan" else "right")
    front = pareto_front(results.rows)
    for row in results.rows:
        texts = cells(row, results.base)
        shown = (texts[name] for name in _TERMINAL_COLUMNS)
        table.add_row(*shown, style="bold" if row in front else None)
    return table


COLUMNS = (
    "plan",
    "tokens",
    "GFLOPs",
    "of base",
    "FPS",
    "speed-up",
    "quartiles",
    "memory MB",
    "mIoU %",
    "retention %",
    "fidelity %",
)
# As many as 80 characters have room for.
_TERMINAL_COLUMNS = [name for name in COLUMNS if name not in ("tokens", "quartiles")]


def cells(row: Row, base: Row | None) -> dict[str, str]:
    """One line of the table, formatted, by `COLUMNS`."""
    texts = [
        label(row),
        f"{row.tokens / row.of_tokens:.0%}",
        f"{row.gflops:.2f}",
        f"{row.gflops / base.gflops:.0%}" if base else "",
        f"{row.fps:.2f}",
        f"{row.speedup:.2f}",
        f"{row.speedup_lower:.2f} to {row.speedup_upper:.2f}",
        f"{row.memory_mb:.1f}",
        *(_percent(value) for value in (row.miou, row.retention, row.fidelity)),
    ]
    return dict(zip(COLUMNS, texts, strict=True))


def label(row: Row) -> str:
    """A plan in a few characters.

    Example:
        >>> from expedite.plan import make_plan
        >>> label(Row(make_plan(4, 20), tokens=400, of_tokens=1600))
        'α4 20x20'
    """
    if row.plan is None:
        return "unpatched"
    plan = flat(row)
    size = plan["clusters"] or f"keep {plan['keep']}"
    return f"α{plan['alpha']} {size}"


def pareto_front(rows: list[Row]) -> list[Row]:
    """Rows that no other beats in both GFLOPs and accuracy, by rising GFLOPs."""
    metric = main_metric(rows)
    if metric is None:
        return []
    return _front(rows, "gflops", metric)


def main_metric(rows: list[Row]) -> str | None:
    """The accuracy that was measured: mIoU where there were labels, else fidelity."""
    return next((name for name in _METRICS if _measured(rows, name)), None)


def plot(rows: list[Row], cost: str) -> Figure:
    """Every accuracy that was measured against "gflops" or "fps", with the Pareto front."""
    metrics = [name for name in _METRICS if _measured(rows, name)]
    figure = Figure(figsize=(5.2 * max(1, len(metrics)), 3.8), layout="constrained")
    for index, metric in enumerate(metrics):
        _draw(figure.add_subplot(1, len(metrics), index + 1), rows, cost, metric)
    return figure


def write_report(results: Results, folder: Path, pictures: list[Picture] | None = None) -> Path:
    """Write the plots as PNG files and everything as report.html."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = []
    if main_metric(results.rows):
        for cost in _AXES:
            figure = plot(results.rows, cost)
            with replacing(folder / f"accuracy_{cost}.png") as file:
                figure.savefig(file, format="png", dpi=150)
            plots.append(_svg(figure))
    page = folder / "report.html"
    with replacing(page) as file:
        file.write(_page(results, plots, pictures or []).encode())
    return page


def _page(results: Results, plots: list[str], pictures: list[Picture]) -> str:
    source = files("expedite").joinpath("assets/report.html").read_text(encoding="utf-8")
    front = pareto_front(results.rows)
    metric = main_metric(results.rows)
    return (
        Environment(autoescape=True)
        .from_string(source)
        .render(
            title=str(results.request.get("model", "sweep")),
            setting=results.setting,
            command=results.command,
            columns=COLUMNS,
            rows=[
                {"cells": cells(row, results.base).values(), "front": row in front}
                for row in results.rows
            ],
            front_note=_FRONT.format(metric=_METRICS[metric]) if metric else "",
            notes=[COUNTING, TIMING, *results.notes],
            plots=plots,
            pictures=[
                {"title": p.title, "data": base64.b64encode(p.path.read_bytes()).decode()}
                for p in pictures
            ],
        )
    )


def _draw(axes: Axes, rows: list[Row], cost: str, metric: str) -> None:
    rows = [row for row in rows if getattr(row, metric) is not None]
    alphas = sorted({flat(row)["alpha"] for row in rows if row.plan})
    for index, alpha in enumerate(alphas):
        members = [row for row in rows if row.plan and flat(row)["alpha"] == alpha]
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(*_points(members, cost, metric), "o", color=colour, label=f"α = {alpha}")
        for row in members:
            axes.annotate(
                label(row).split(" ", 1)[1],
                (getattr(row, cost), 100 * getattr(row, metric)),
                textcoords="offset points",
                xytext=(5, -9),
                fontsize=7,
                color=colour,
            )
    if base := [row for row in rows if row.plan is None]:
        axes.plot(*_points(base, cost, metric), "k*", markersize=10, label="unpatched")
    axes.plot(*_points(_front(rows, cost, metric), cost, metric), "-", color="#8794a5", zorder=0)
    axes.set_xlabel(_AXES[cost])
    axes.set_ylabel(f"{_METRICS[metric]} (%)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _front(rows: list[Row], cost: str, metric: str) -> list[Row]:
    """Rows that none beats in both: fewer GFLOPs (or more FPS) and more accuracy."""
    sign = -1 if cost == "fps" else 1
    ordered = sorted(
        (row for row in rows if getattr(row, metric) is not None),
        key=lambda row: (sign * getattr(row, cost), -getattr(row, metric)),
    )
    front: list[Row] = []
    for row in ordered:
        if not front or getattr(row, metric) > getattr(front[-1], metric):
            front.append(row)
    return front


def _points(rows: list[Row], cost: str, metric: str) -> tuple[list[float], list[float]]:
    return [getattr(row, cost) for row in rows], [100 * getattr(row, metric) for row in rows]


def _measured(rows: list[Row], metric: str) -> bool:
    return any(getattr(row, metric) is not None for row in rows)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg")
    content = text.getvalue()
    return content[content.index("<svg") :]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"
