"""Train a small ViT-Adapter, or META, from scratch on a folder of images and class maps.

    python examples/train_adapter.py --data DIR --out DIR --dataset camvid
    python examples/train_adapter.py --data DIR --out DIR --dataset camvid --model meta

The model is the published tiny one under Semantic FPN, with half the channels in the adapter's
attention, as the larger ones have, and in the head. DIR and what is written are as for
`train_segmenter.py`: most epochs see the images at half size, the last ones at full size, and
`vit_adapter:OUT/checkpoint.pth` is what `expedite sweep` takes.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from running import run_script
from train_segmenter import (
    Classes,
    Data,
    Epochs,
    Limit,
    Out,
    Resume,
    Rule,
    Schedule,
    Task,
    Workers,
    go_through,
    measure,
    open_task,
    print_ious,
    steps_of,
)
from training import Run, start

from expedite.models.adapter_config import COARSEST, SIZES, for_meta
from expedite.models.adapter_files import Variant, save_adapter
from expedite.models.adapter_segmenter import AdapterSegmenter

Kind = Literal["vit-adapter", "meta"]


@dataclass(frozen=True)
class Settings(Schedule):
    """A ViT-Adapter or META, and how to train it.

    Args:
        model: Which of the two.
        layers: Blocks of the ViT, a multiple of 4.
        hidden: Channels of the head's neck.
        other_lr: Highest learning rate of all but the blocks' matrices.
    """

    window: int = 320
    small_epochs: int = 36
    full_epochs: int = 4
    batch: int = 8
    lr: float = 3e-3
    zooms: tuple[float, float] = (0.7, 2.0)
    balanced: bool = True
    drop_path: float = 0.1
    workers: int = 0
    model: Kind = "vit-adapter"
    layers: int = 12
    hidden: int = 128
    other_lr: float = 1.5e-3

    @property
    def step(self) -> int:
        return COARSEST

    def variant(self, task: Task, side: int) -> Variant:
        """The architecture, fed with images of `side`."""
        config = replace(
            SIZES["tiny"],
            layers=self.layers,
            value_ratio=0.5,
            image_size=(self.window, self.window),
            drop_path_rate=self.drop_path,
        )
        return Variant(
            for_meta(config) if self.model == "meta" else config,
            head="semantic-fpn",
            n_cls=task.n_cls,
            hidden=self.hidden,
            meta=self.model == "meta",
            normalization="vit",
            crop=side,
            dataset=task.dataset,
        )


def begin(settings: Settings, task: Task, device: torch.device) -> Run[AdapterSegmenter]:
    """A model with random weights."""
    torch.manual_seed(settings.seed)
    torch.set_flush_denormal(True)  # gradients of sampling are full of them, and slow with them
    model = settings.variant(task, settings.window).build()
    return start(model.to(device), steps_of(task, settings), settings.lr, settings.other_lr)


def save(settings: Settings, task: Task, out: Path, model: AdapterSegmenter, side: int) -> str:
    """Write a checkpoint that sees images through windows of `side`."""
    return f"vit_adapter:{save_adapter(model, settings.variant(task, side), out)}"


def train(
    task: Task, settings: Settings, out: Path, device: torch.device, resume: bool = False
) -> None:
    """Train, printing loss and held-out IoU after each epoch."""
    run = begin(settings, task, device)
    go_through(run, task, settings, out, partial(save, settings, task, out), resume)


def main(
    data: Data,
    out: Out,
    model: Annotated[Kind, typer.Option(help="Which adapter.")] = Settings.model,
    dataset: Rule = "",
    n_cls: Classes = 0,
    val_images: Limit = 100,
    layers: Annotated[int, typer.Option(help="Blocks, a multiple of 4.")] = Settings.layers,
    window: Annotated[int, typer.Option(help="Pixels, a multiple of 64.")] = Settings.window,
    small_epochs: Epochs = Settings.small_epochs,
    full_epochs: Epochs = Settings.full_epochs,
    batch: int = Settings.batch,
    lr: float = Settings.lr,
    bf16: bool = Settings.bf16,
    seed: int = Settings.seed,
    workers: Workers = Settings.workers,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    resume: Resume = False,
) -> None:
    """Train from scratch, first at half size and then at full size."""
    settings = Settings(
        model=model,
        layers=layers,
        window=window,
        small_epochs=small_epochs,
        full_epochs=full_epochs,
        batch=batch,
        lr=lr,
        bf16=bf16,
        seed=seed,
        workers=workers,
    )
    task = open_task(data, dataset, n_cls, val_images)
    train(task, settings, out, torch.device(device), resume)
    written = f"vit_adapter:{out / 'checkpoint.pth'}"
    print_ious(measure(written, task.val, task.n_cls, torch.device(device), bf16))


if __name__ == "__main__":
    run_script(main)
