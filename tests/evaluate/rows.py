"""Rows of made-up sweeps, for tests."""

from dataclasses import replace

from expedite.evaluate.results import Results
from expedite.evaluate.sweep import Row
from expedite.plan import make_plan


def row_of(
    gflops: float, fps: float, miou: float | None, alpha: int | None = 1, side: int = 4
) -> Row:
    plan = None if alpha is None else make_plan(alpha, side)
    metrics = {} if miou is None else {"miou": miou}
    return Row(plan, tokens=side * side, of_tokens=64, gflops=gflops, fps=fps, metrics=metrics)


ROWS = [
    row_of(10, 10, 0.50, alpha=None),
    row_of(8, 12, 0.50),
    row_of(6, 11, 0.45, alpha=2),  # beaten by the next
    row_of(5, 20, 0.46, side=5),
    row_of(3, 30, 0.30, alpha=2, side=6),
]

SEGMENTATION = Results({"model": "segmenter:x"}, "segmentation", rows=ROWS)


def depth_results(labelled: bool = True) -> Results:
    """The same rows of a depth model, whose error is 1 where the mean IoU was 0.5."""
    return Results(
        {"model": "dpt:x"},
        "depth",
        rows=[
            replace(
                row,
                metrics=_depth(1 / (2 * row.metrics["miou"])) if labelled else {},
                fidelity=_depth(0.5 - row.metrics["miou"]),
                retention=2 * row.metrics["miou"] if labelled else None,
            )
            for row in ROWS
        ],
    )


def _depth(rmse: float) -> dict[str, float]:
    return {"rmse": rmse, "abs_rel": rmse / 10, "delta1": 1 - rmse / 2, "delta2": 1.0}
