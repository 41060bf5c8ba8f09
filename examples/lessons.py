"""Training on generated scenes: their files, augmented views of them, and the epochs.

What is learnt is a `Lesson` of the script.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from running import console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from training import Model, Run, jitter_colours, start, train_epoch

from expedite.scenes.scenes import write_scenes

Size: TypeAlias = tuple[int, int]
Reader: TypeAlias = Callable[[Path], tuple[Tensor, ...]]

RENDERED = (256, 384)
# Options that the scripts have in common.
Scenes = Annotated[Path, typer.Option(help="Where the scenes are, or go.")]
Work = Annotated[Path, typer.Option(help="Where training keeps its state.")]
Out = Annotated[Path, typer.Option(help="Where the trained model goes.")]
Render = Annotated[bool, typer.Option(help="Render the scenes first.")]
Resume = Annotated[bool, typer.Option(help="Go on from WORK/training.pth.")]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        sizes: Height and width of the images in every epoch.
        limits: How many images every epoch sees; it goes on where the last one ended.
        batch: Images in a step.
        lr: Highest learning rate of the matrices of blocks and layers.
        other_lr: Of everything else.
        bf16: Whether to run under bfloat16 autocast.
        seed: Of order and augmentation.
        workers: Processes that read and augment images.
    """

    sizes: tuple[Size, ...]
    limits: tuple[int, ...]
    batch: int = 8
    lr: float = 3e-3
    other_lr: float = 1e-3
    bf16: bool = True
    seed: int = 0
    workers: int = 1

    @property
    def pixels(self) -> list[int]:
        """How many every epoch sees."""
        sizes = zip(self.limits, self.sizes, strict=True)
        return [limit * height * width for limit, (height, width) in sizes]


@dataclass(frozen=True)
class Lesson(Generic[Model]):
    """What a model is to learn from scenes.

    Args:
        read: The image (3, H, W) from 0 to 1 of a path, and maps (H, W) of its truth.
        loss: Of the model on a batch, and whether to run under bfloat16 autocast.
        measure: Figures of the model on the scenes of some paths, seen at a size.
        collate: Makes a batch of views.
    """

    read: Reader
    loss: Callable[[Model, Any, bool], Tensor]
    measure: Callable[[Model, list[Path], Size], dict[str, float]]
    collate: Callable[[list[tuple[Tensor, ...]]], Any] = default_collate


@dataclass(frozen=True)
class Views(Dataset[tuple[Tensor, ...]]):
    """Augmented images (3, h, w) from 0 to 1 of one epoch, with their truth (H, W) as rendered."""

    names: list[Path]
    size: Size
    seed: tuple[int, int]
    read: Reader

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([*self.seed, index])
        image, *truth = self.read(self.names[index])
        if rng.random() < 0.5:
            image, *truth = (each.flip(-1) for each in (image, *truth))
        return jitter_colours(resized(image, self.size), rng), *truth


def pictures(scenes: Path, split: str) -> list[Path]:
    """The images of a split, in the order of their names."""
    return sorted((scenes / "images" / split).glob("*.jpg"))


def read_image(path: Path) -> Tensor:
    """A picture, (3, H, W) from 0 to 1."""
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255


def read_truth(path: Path, kind: str) -> Tensor:
    """What is stored as `kind` for a picture, (H, W) or (H, W, 3)."""
    stored = np.array(Image.open(path.parents[2] / kind / path.parent.name / f"{path.stem}.png"))
    return torch.from_numpy(stored.astype(np.int64))


def resized(image: Tensor, size: Size) -> Tensor:
    """An image (3, H, W) at another size, (3, h, w)."""
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def size_of(image: Tensor) -> Size:
    """Height and width of an image or a map."""
    return image.shape[-2], image.shape[-1]


def render_splits(scenes: Path, counts: dict[str, int]) -> None:
    """Render so many scenes for every split."""
    for split, count in counts.items():
        write_scenes(scenes, split, count, RENDERED, workers=2)


def train(
    lesson: Lesson[Model],
    scenes: Path,
    settings: Settings,
    model: Model,
    work: Path,
    resume: bool = False,
) -> Model:
    """Train, printing loss and held-out figures after each epoch; returns the averaged model."""
    work.mkdir(parents=True, exist_ok=True)
    steps = sum(math.ceil(limit / settings.batch) for limit in settings.limits)
    run = start(model, steps, settings.lr, settings.other_lr)
    state = work / "training.pth"
    if resume and state.is_file():
        run.restore(state)
    for size in settings.sizes[run.epoch :]:
        began = time.perf_counter()
        loss = one_epoch(run, lesson, pictures(scenes, "train"), settings)
        seconds = time.perf_counter() - began
        run.save(state)
        held_out = lesson.measure(run.averaged, pictures(scenes, "val"), size)
        found = ", ".join(f"{name} {value:.4f}" for name, value in held_out.items())
        console.print(
            f"epoch {run.epoch}/{len(settings.sizes)} at {size}: loss {loss:.4f}, {found}, "
            f"{seconds:.0f} s",
            soft_wrap=True,
        )
    return run.averaged


def one_epoch(
    run: Run[Model], lesson: Lesson[Model], names: list[Path], settings: Settings
) -> float:
    """Train on the images of one epoch; returns the mean loss."""
    epoch = run.epoch
    begin = sum(settings.limits[:epoch])
    chosen = [names[index % len(names)] for index in range(begin, begin + settings.limits[epoch])]
    loader = DataLoader(
        Views(chosen, settings.sizes[epoch], (settings.seed, epoch), lesson.read),
        settings.batch,
        shuffle=True,
        generator=torch.Generator().manual_seed(settings.seed + epoch),
        num_workers=settings.workers,
        collate_fn=lesson.collate,
    )
    run.model.train()
    return train_epoch(
        run, loader, settings.pixels, lambda batch: lesson.loss(run.model, batch, settings.bf16)
    )
