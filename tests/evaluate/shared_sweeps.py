"""Sweeps of every task over generated samples, alone or with the processes that torchrun starts."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from expedite.data.instances import Instances
from expedite.data.segments import Segments
from expedite.data.truths import ImageClass, Sample
from expedite.evaluate.ranks import ALONE, Ranks, joined
from expedite.evaluate.run import Request, run_sweep
from expedite.evaluate.tasks import task_of
from expedite.loading import LoadedModel, TaskName
from expedite.measure.mode import jobs_of
from expedite.plan import make_plan
from expedite.terminal.status import Status
from tests.evaluate.tasks.query_outputs import SURE, output_class
from tests.hosts import depth_vit, segmenter, timm_vit

CLASSES = 5
HALF = (0.5, 0.5, 0.5)
PLANS = [make_plan(1, 4)]


class Queries(nn.Module):
    """One query for each class, with the scores of a Segmenter for its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.segmenter = segmenter()

    def forward(self, images: Tensor) -> Any:
        scores = self.segmenter(images)  # (B, classes, h, w)
        masks = SURE * (scores - scores.mean(1, keepdim=True))
        sureness = 4 + scores.amax((2, 3)).sigmoid()  # (B, classes)
        logits = torch.cat([torch.diag_embed(sureness), torch.zeros(1, CLASSES, 1)], dim=-1)
        return output_class("Mask2Former")(class_queries_logits=logits, masks_queries_logits=masks)


class SharedSamples:
    """Images with a truth for every task, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        cells = rng.integers(0, 6, (4, 4)).repeat(8, 0).repeat(8, 1)  # (32, 32)
        kinds = rng.integers(0, CLASSES, 6)
        masks = np.stack([cells == number for number in range(6)])
        return Sample(
            str(index),
            rng.integers(0, 255, (32, 32, 3), dtype=np.uint8),
            labels=kinds[cells],
            depth=rng.uniform(1, 20, (32, 32)).astype(np.float32),
            panoptic=Segments.of_ids(cells, dict(enumerate(kinds.tolist())), CLASSES),
            instances=replace(Instances.of_masks(masks, kinds), numberings=((*range(CLASSES),),)),
            image_class=ImageClass(index % 10, 10),
        )


def sweeps() -> Iterator[tuple[str, LoadedModel, int]]:
    """Names with models and how many images they see; 1 is fewer than there are processes."""
    models: dict[TaskName, Any] = {
        "segmentation": segmenter,
        "panoptic": Queries,
        "instance": Queries,
        "depth": depth_vit,
        "classification": timm_vit,
    }
    for task, build in models.items():
        model = build()
        loaded = LoadedModel(task, model, (32, 32), HALF, HALF, trained=True, task=task)
        yield task, loaded, 3
        if task in ("segmentation", "panoptic"):
            yield f"{task}-of-one", loaded, 1


def run_all(folder: Path, ranks: Ranks = ALONE) -> None:
    """Write the results of each into a folder of its own."""
    for name, loaded, count in sweeps():
        request = Request(
            loaded=loaded,
            task=task_of(loaded),
            samples=SharedSamples(count),
            jobs=jobs_of(PLANS),
            out=folder / name,
            identity={"name": name},
            command="",
            device=torch.device("cpu"),
            seconds=0.0,
            ranks=ranks,
        )
        run_sweep(request, Status(Console(file=io.StringIO()), ""))


def run_shared(folder: Path) -> None:
    """Write the same with the other processes."""
    torch.set_num_threads(1)
    with joined() as found:
        assert found.size > 1
        run_all(folder, found)
