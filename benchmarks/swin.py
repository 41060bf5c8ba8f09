"""What window token clustering keeps of a Mask2Former or a Mask R-CNN trained on generated scenes.

    python -m benchmarks.swin hf:DIR --data SCENES
    python -m benchmarks.swin DIR/swin_detector.py:load --data SCENES

DIR and SCENES are what `examples/train_mask2former.py` and `examples/train_maskrcnn.py` write. Each
output is read for every task that it can be of. With `--options` the rows are options of window
clustering, and the one column is how many pixels get another class than by the unpatched model.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.cases import papers_nearest
from expedite.data.layouts import open_data
from expedite.evaluate.predict import predict
from expedite.evaluate.tasks import TASKS
from expedite.evaluate.tasks.base import Task
from expedite.loading import LoadedModel, TaskName, load_model
from expedite.measure.flops import count_flops
from expedite.patching import patch
from expedite.plan import make_plan

# The third stage of both models is their blocks 3 to 10, with windows of 8×8 tokens.
PLANS = [(alpha, clusters) for alpha in (2, 4) for clusters in (6, 5, 4)]
WAYS: dict[str, dict[str, Any]] = {"expedite": {}, "paper": {"method": "paper"}}
OPTIONS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "clusters stay in place": {"relocated": 0.0},
    "tables resized": {"position_tables": "resized"},
    "the whole map": {"window_borders": False},
    "locally linear weights": {"weights": "linear"},
    "paper": {"method": "paper"},
}
SHOWN: dict[TaskName, tuple[str, ...]] = {
    "segmentation": ("miou",),
    "instance": ("mask_ap", "box_ap"),
    "panoptic": ("pq",),
}


class Bench:
    """A model, and the truth of the tasks that its output can be of."""

    def __init__(self, loaded: LoadedModel, data: Path, split: str, scenes: int) -> None:
        self.loaded = loaded
        self.model = loaded.model.float()  # folders of transformers may hold halves
        with torch.inference_mode():
            output = self.model(torch.zeros(1, 3, *loaded.image_size))
        names = [name for name in SHOWN if TASKS[name].find(output) is not None]
        self.folders = {name: open_data(data, split, name, None, scenes) for name in names}
        self.tasks: dict[TaskName, Task[Any]] = {
            name: TASKS[name].of(loaded).on(folder.rule) for name, folder in self.folders.items()
        }

    def titles(self) -> Iterator[str]:
        """Of the metrics that are shown."""
        for name, task in self.tasks.items():
            yield from (f"{m.title} %" for m in task.metrics if m.name in SHOWN[name])

    def row(self) -> list[str]:
        """Costs and metrics of the model as it is patched now."""
        flops = count_flops(self.model, torch.zeros(1, 3, *self.loaded.image_size))
        return [f"{flops.total:.2f}", *(f"{100 * value:.2f}" for value in self._metrics())]

    def _metrics(self) -> Iterator[float]:
        meters = {name: task.meter() for name, task in self.tasks.items()}
        for samples in zip(*self.folders.values(), strict=True):
            model = _once(self.model)
            for sample, (name, task) in zip(samples, self.tasks.items(), strict=True):
                answer = predict(replace(self.loaded, task=name), model, sample.image)
                meters[name].add(task.truth(sample), answer)
        for name, meter in meters.items():
            values = meter.values()
            yield from (values[m.name] for m in self.tasks[name].metrics if m.name in SHOWN[name])

    def classes(self) -> Tensor:
        """The class of every pixel of every image, (N, H, W)."""
        task = self.tasks["segmentation"]
        loaded = replace(self.loaded, task="segmentation")
        images = (sample.image for sample in self.folders["segmentation"])
        answers = (predict(loaded, self.model, image) for image in images)
        return torch.stack([task.as_truth(answer) for answer in answers])


def _once(model: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    """A model of one image, which it sees once however often it is asked."""
    outputs: list[Any] = []

    def run(pixels: torch.Tensor) -> Any:
        outputs[:] = outputs or [model(pixels)]
        return outputs[0]

    return run


def main(
    model: Annotated[str, typer.Argument(help="As the command line takes it.")],
    data: Annotated[Path, typer.Option(help="The scenes.")],
    split: Annotated[str, typer.Option(help="Of the scenes.")] = "test",
    scenes: Annotated[int, typer.Option(help="How many.")] = 100,
    options: Annotated[bool, typer.Option("--options", help="Compare the options.")] = False,
) -> None:
    """Measure every way of every plan."""
    bench = Bench(load_model(model), data, split, scenes)
    Console(width=140).print(_compare_options(bench) if options else _compare_ways(bench))


def _compare_ways(bench: Bench) -> Table:
    table = Table("plan", "way", "GFLOPs", *bench.titles())
    table.add_row("unpatched", "", *bench.row())
    for plan, way in _patched(bench, WAYS):
        table.add_row(plan, way, *bench.row())
    return table


def _compare_options(bench: Bench) -> Table:
    table, plain = Table("plan", "way", "other pixels %"), bench.classes()
    for plan, way in _patched(bench, OPTIONS):
        share = 100 * (bench.classes() != plain).float().mean((1, 2))  # (N,)
        table.add_row(plan, way, f"{share.mean():.2f} ±{share.std() / len(share) ** 0.5:.2f}")
    return table


def _patched(bench: Bench, ways: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Patch the model every way of every plan, one after the other."""
    for alpha, clusters in PLANS:
        for way, settings in ways.items():
            nearest: dict[str, Any] = papers_nearest(clusters**2) if way == "paper" else {}
            patch(bench.model, make_plan(alpha, clusters, **settings, **nearest))
            yield f"α={alpha}, {clusters}×{clusters}", way


if __name__ == "__main__":
    typer.run(main)
