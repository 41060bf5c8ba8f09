"""What reconstruction does to depth: the demo's DPT on scenes that it never saw.

    python -m benchmarks.depth --scenes 100

Every row has the same GFLOPs but for the operators: how the taps come back is all that differs.
"""

from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from expedite.evaluate.demo import demo_depth_model, unseen_scenes
from expedite.evaluate.predict import predict
from expedite.evaluate.tasks import task_of
from expedite.measure.flops import count_flops
from expedite.patching import patch, unpatch
from expedite.plan import make_plan

PLANS = [(2, (20, 30)), (2, (16, 24))]
WAYS: dict[str, dict[str, Any]] = {
    "expedite": {},
    "expedite without delta": {"delta": False},
    "expedite, locally linear": {"weights": "linear"},
    "expedite, hard copy": {"delta": False, "weights": "hard"},
    "paper": {"method": "paper"},
    "paper with delta": {"method": "paper", "delta": True},
    "as the published DPT code: hard copy, τ 1": {
        "method": "paper",
        "weights": "hard",
        "temperature": 1.0,
    },
}


def main(scenes: Annotated[int, typer.Option(help="How many.")] = 100) -> None:
    """Measure every way of every plan."""
    loaded, samples = demo_depth_model(), unseen_scenes(scenes)
    task, images = task_of(loaded), torch.zeros(1, 3, *loaded.image_size)
    plain = [predict(loaded, loaded.model, sample.image) for sample in samples]
    table = Table("plan", "reconstruction", "GFLOPs", "RMSE", "AbsRel", "δ<1.25 %", "RMSE to plain")

    def add(plan: str, way: str, answers: list[Any]) -> None:
        against, to_plain = task.meter(), task.meter()
        for sample, before, answer in zip(samples, plain, answers, strict=True):
            against.add(task.truth(sample), answer)
            to_plain.add(task.as_truth(before), answer)
        found = against.values()
        table.add_row(
            plan,
            way,
            f"{count_flops(loaded.model, images).total:.2f}",
            f"{found['rmse']:.3f}",
            f"{found['abs_rel']:.4f}",
            f"{100 * found['delta1']:.2f}",
            f"{to_plain.values()['rmse']:.3f}",
        )

    add("unpatched", "", plain)
    for alpha, clusters in PLANS:
        for way, settings in WAYS.items():
            patch(loaded.model, make_plan(alpha, clusters, **settings))
            answers = [predict(loaded, loaded.model, sample.image) for sample in samples]
            add(f"α={alpha}, {clusters[0]}×{clusters[1]}", way, answers)
    unpatch(loaded.model)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
