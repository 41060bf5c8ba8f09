"""The paper's ablations on a Segmenter of one's own: λ, κ, τ, k, cluster sizes, α, α+β and rivals.

    python -m benchmarks.ablations --checkpoint segmenter/checkpoint.pth --data DIR --out OUT

Every ablation changes one thing of a plan (α 3, 20×20 clusters) for the published operators and for
expedite's. Rows are measured by the package's own sweep, so a run that is stopped goes on; tables
are written to OUT/ablations.md and plots beside it. Nothing is timed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from expedite.data.layouts import open_data
from expedite.data.truths import LABEL_RULES, LabelRule
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.plans import unique
from expedite.evaluate.results import Results
from expedite.evaluate.run import Request, run_sweep
from expedite.evaluate.sweep import Row
from expedite.evaluate.tasks import task_of
from expedite.loading import load_model
from expedite.measure.mode import Job, jobs_of
from expedite.plan import Plan
from expedite.terminal.status import Status
from expedite.version import __version__

USUAL: dict[str, Any] = {"alpha": 3, "clusters": 20}
SIZES = (14, 20)  # a quarter and half of 28×28 tokens
# The paper's τ of 50 is for the features of one model; its other ablations need one that fits.
METHODS: dict[str, dict[str, Any]] = {"paper": {"temperature": "auto"}, "expedite": {}}
RIVALS = {
    "clustering and reconstruction": "expedite",
    "pooling and reconstruction": "pool+weights",
    "clustering and bilinear": "clusters+bilinear",
    "pooling and bilinear": "pool",
}
SHOWN = ("GFLOPs", "mIoU %", "same pixels %")
COLOURS = {"paper": "#D55E00", "expedite": "#0072B2", "downsample": "#009E73"}


@dataclass(frozen=True)
class Ablation:
    """One thing that is changed, for both methods.

    Args:
        what: Changes, as tables call it.
        of: The paper's table or figure.
        values: What it becomes, by how that is written.
        usual: The rest of the plan.
        ours: What else expedite's plans need where that changes.
    """

    what: str
    of: str
    values: Mapping[str, dict[str, Any]]
    usual: Mapping[str, Any]
    ours: Mapping[str, Any] = field(default_factory=dict)

    def plan(self, method: str, value: str) -> Plan:
        """The plan of one row."""
        more = self.ours if method == "expedite" else {}
        return plan_of(method, **{**METHODS[method], **self.usual, **self.values[value], **more})


def settings(name: str, values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Values of one setting of a plan."""
    return {str(value): {name: value} for value in values}


def ablations(depth: int) -> list[Ablation]:
    """All that change a setting, for a model of `depth` blocks."""
    alpha: int = USUAL["alpha"]
    ends = {str(end): {"beta": end - alpha} for end in range(alpha + 1, depth + 1)}
    found = [
        Ablation("λ", "Table 1", settings("neighborhood", (3, 5, 7)), USUAL),
        Ablation("κ", "Table 1", settings("iterations", (1, 5, 10, 15, 20)), USUAL),
        Ablation("τ", "Table 1", settings("temperature", ("auto", 1, 5, 10, 25, 50, 75)), USUAL),
        # Kriging takes no k.
        Ablation("k", "Table 1", settings("k", (4, 8, 10, 20, 49)), USUAL, {"weights": "linear"}),
        Ablation("side of h×w", "Table 2", settings("clusters", (6, 8, 11, 14, 17, 20, 24)), USUAL),
    ]
    for side in SIZES:
        sized, where = {**USUAL, "clusters": side}, f" at {side}×{side}"
        found.append(Ablation(f"α{where}", "Figure 4", settings("alpha", range(depth)), sized))
        found.append(Ablation(f"α+β{where}", "Figure 5", ends, sized))
    return found


def rivals() -> dict[tuple[str, int], Plan]:
    """The plans of Tables 3 and 4, by what they do and their cluster size."""
    return {
        (what, side): plan_of(name, USUAL["alpha"], side)
        for what, name in RIVALS.items()
        for side in SIZES
    }


def smaller_images() -> dict[int, Plan]:
    """The plans of Figure 6, by how many tokens an image's side then has."""
    return {side: plan_of("downsample", clusters=side) for side in (14, 17, 20, 22, 24, 26)}


def jobs(depth: int) -> list[Job]:
    """Everything, each plan once."""
    plans = [
        ablation.plan(method, value)
        for ablation in ablations(depth)
        for value in ablation.values
        for method in METHODS
    ]
    return jobs_of(unique([*plans, *rivals().values(), *smaller_images().values()]))


def row_of(results: Results, plan: Plan) -> Row:
    """What was measured of a plan."""
    return next(row for row in results.rows if row.plan == plan)


def figures(row: Row) -> list[str]:
    """GFLOPs, mIoU, and the share of pixels whose class stays."""
    miou = f"{100 * row.metrics['miou']:.2f}" if row.metrics else "-"
    return [f"{row.gflops:.2f}", miou, f"{same(row):.2f}"]


def same(row: Row) -> float:
    """Percent of pixels whose class stays."""
    return 100 * row.fidelity["pixel_accuracy"]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def line(results: Results, name: str, plans: Iterable[Plan]) -> list[str]:
    """A name with the figures of several plans."""
    return [name, *(figure for plan in plans for figure in figures(row_of(results, plan)))]


def tables(results: Results, depth: int) -> Iterator[str]:
    """Every table with its title."""
    assert results.base is not None  # run_sweep measures it first
    yield f"**Unpatched**\n\n{table(SHOWN, [figures(results.base)])}"
    for ablation in ablations(depth):
        head = [ablation.what, *(f"{method}: {name}" for method in METHODS for name in SHOWN)]
        lines = [
            line(results, value, [ablation.plan(method, value) for method in METHODS])
            for value in ablation.values
        ]
        yield f"**{ablation.what}** ({ablation.of})\n\n{table(head, lines)}"
    head = ["", *(f"{side}×{side}: {name}" for side in SIZES for name in SHOWN)]
    plans = rivals()
    lines = [line(results, what, [plans[what, side] for side in SIZES]) for what in RIVALS]
    yield f"**Pooling and bilinear upsampling** (Tables 3 and 4)\n\n{table(head, lines)}"
    lines = [line(results, str(side), [plan]) for side, plan in smaller_images().items()]
    yield f"**Smaller images** (Figure 6)\n\n{table(['tokens a side', *SHOWN], lines)}"


def plot_positions(results: Results, depth: int) -> Figure:
    """Figures 4 and 5: same pixels against α, and against α+β."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = {name: figure.add_subplot(1, 2, n) for n, name in enumerate(("α", "α+β"), 1)}
    for ablation in ablations(depth):
        name, _, where = ablation.what.partition(" at ")
        if name not in axes:
            continue
        for method in METHODS:
            rows = [row_of(results, ablation.plan(method, value)) for value in ablation.values]
            style = "-o" if where == "20×20" else "--s"
            values = [int(value) for value in ablation.values]
            label = f"{method}, {where}"
            shares = [same(row) for row in rows]
            axes[name].plot(values, shares, style, color=COLOURS[method], label=label, ms=4)
    for name, ax in axes.items():
        finish(ax, f"{name} (of {depth} blocks)")
    return figure


def plot_downsampling(results: Results, depth: int) -> Figure:
    """Figure 6: same pixels against GFLOPs."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes, sized = figure.add_subplot(), ablations(depth)[4]
    found = {m: [row_of(results, sized.plan(m, value)) for value in sized.values] for m in METHODS}
    found["downsample"] = [row_of(results, plan) for plan in smaller_images().values()]
    for name, rows in found.items():
        costs, shares = [row.gflops for row in rows], [same(row) for row in rows]
        axes.plot(costs, shares, "-o", color=COLOURS[name], label=name, ms=4)
    finish(axes, "GFLOPs")
    return figure


def finish(axes: Axes, what: str) -> None:
    """Names, a light grid and a legend."""
    axes.set_xlabel(what)
    axes.set_ylabel("same pixels (%)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def sweep(checkpoint: Path, data: Path, limit: int, out: Path) -> Results:
    """Measure what OUT does not hold yet."""
    loaded = load_model(f"segmenter:{checkpoint}")
    rule = LABEL_RULES.get(loaded.dataset, LabelRule())
    samples = open_data(data, "val", "segmentation", rule, limit)
    asked = {"expedite": __version__, "model": loaded.name, "data": str(data)}
    request = Request(
        loaded=loaded,
        task=task_of(loaded),
        samples=samples,
        jobs=jobs(_depth(loaded.model)),
        out=out,
        identity={**asked, "images": len(samples)},
        command=f"python -m benchmarks.ablations --limit {limit}",
        device=torch.device("cpu"),
        seconds=0.0,
    )
    with Status(Console(stderr=True), "") as status:
        return run_sweep(request, status)


def _depth(model: Any) -> int:
    return int(model.config.n_layers)


def main(
    checkpoint: Annotated[Path, typer.Option(help="Of a Segmenter with windows of 28×28 tokens.")],
    data: Annotated[Path, typer.Option(help="What has images/val and annotations/val for it.")],
    out: Annotated[Path, typer.Option(help="Folder for rows, tables and plots.")],
    limit: Annotated[int, typer.Option(help="How many images, spread over all.")] = 13,
) -> None:
    """Measure every ablation and write tables and plots."""
    results = sweep(checkpoint, data, limit, out)
    depth = _depth(load_model(f"segmenter:{checkpoint}").model)
    (out / "ablations.md").write_text("\n\n".join(tables(results, depth)) + "\n")
    plot_positions(results, depth).savefig(out / "positions.png", dpi=110)
    plot_downsampling(results, depth).savefig(out / "downsampling.png", dpi=110)


if __name__ == "__main__":
    typer.run(main)
