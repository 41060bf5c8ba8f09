"""Train a Segmenter from scratch on any folder of images and class maps, on a CPU or a GPU.

    python examples/train_segmenter.py --data DIR --out DIR

DIR has the layout of ADE20K: `images/SPLIT/NAME.jpg` and `annotations/SPLIT/NAME.png`. Most epochs
see the images at half size, where a step costs a fraction, the last ones at full size; the position
embedding is interpolated between the two. After every epoch the averaged weights are written to
`--out` as a published checkpoint, with the state that `--resume` goes on from. Few images teach
more to a model that begins with the weights of another (`--start-from`), and rare classes come
through where they weigh more (`--balanced`).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.random import Generator
from numpy.typing import NDArray
from rich.table import Table
from running import console, run_script
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from training import Model, Run, jitter_colours, start, train_epoch

from expedite.data.datasets import ImageFolder, open_folder
from expedite.data.truths import LABEL_RULES, VOID, LabelRule, Sample
from expedite.errors import ExpediteError
from expedite.evaluate.predict import predict
from expedite.loading import load_model
from expedite.measure.metrics import Agreement
from expedite.models.segmenter import Segmenter, SegmenterConfig
from expedite.models.segmenter_files import Preprocessing, load_segmenter, save_segmenter
from expedite.models.vit import resize_positions

# What this script and `train_adapter.py` ask alike.
Data = Annotated[Path, typer.Option(help="Holds images/SPLIT and annotations/SPLIT.")]
Out = Annotated[Path, typer.Option(help="Where checkpoint.pth and variant.yml go.")]
Rule = Annotated[str, typer.Option(help="Whose rule says how classes are stored.")]
Classes = Annotated[int, typer.Option(help="Number of classes; 0 counts them.")]
Limit = Annotated[int, typer.Option(help="How many to validate on.")]
Epochs = Annotated[int, typer.Option(help="At half size, or at full size.")]
Workers = Annotated[int, typer.Option(help="Processes that read.")]
Resume = Annotated[bool, typer.Option(help="Go on from OUT/training.pth.")]


@dataclass(frozen=True)
class Schedule:
    """How to train on crops, whatever the model.

    Args:
        window: Side in pixels of the crops at full size, and of the sliding windows.
        small_epochs: Epochs at half size.
        full_epochs: Epochs at full size.
        batch: Crops in a step.
        lr: Highest learning rate; it rises over the first twentieth, then falls to 0.
        short_side: Of the image as windows see it, in pixels; 0 for that of a window.
        zooms: How much larger than that crops may show things, at least and at most.
        balanced: Whether pixels count by one over the root of how frequent their class is.
        drop_path: Stochastic depth, rising to this in the last block.
        bf16: Whether to run under bfloat16 autocast; slow on a CPU without AMX or AVX-512 BF16.
        seed: Of weights, order and augmentation.
        workers: Processes that read and augment images.
    """

    window: int = 256
    small_epochs: int = 20
    full_epochs: int = 4
    batch: int = 16
    lr: float = 3e-3
    short_side: int = 0
    zooms: tuple[float, float] = (0.85, 1.5)
    balanced: bool = False
    drop_path: float = 0.0
    bf16: bool = True
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.window % (2 * self.step):
            raise ExpediteError(
                f"windows of {self.window} were asked of a model that steps by {self.step} pixels; "
                f"half a window is trained on too, so a multiple of {2 * self.step} would work"
            )
        if not self.sides:
            raise ExpediteError("0 epochs were asked at both sizes; at least one is due")

    @property
    def step(self) -> int:
        """Pixels that the sides of images are multiples of."""
        raise NotImplementedError

    @property
    def share(self) -> float:
        """The side of a window over the image's shorter side."""
        return self.window / (self.short_side or self.window)

    @property
    def sides(self) -> list[int]:
        """Side in pixels of the crops of every epoch."""
        return [self.window // 2] * self.small_epochs + [self.window] * self.full_epochs


@dataclass(frozen=True)
class Settings(Schedule):
    """A Segmenter, and how to train it.

    Args:
        width: Of the tokens, a multiple of 64; each head takes 64 of it.
        layers: Blocks of the encoder.
        decoder_layers: Blocks of the decoder.
        patch: Side of a patch in pixels.
    """

    width: int = 192
    layers: int = 8
    decoder_layers: int = 1
    patch: int = 8

    @property
    def step(self) -> int:
        return self.patch

    @property
    def name(self) -> str:
        """What `variant.yml` says of the encoder."""
        return f"vit_{self.width}x{self.layers}_patch{self.patch}_{self.window}"


@dataclass(frozen=True)
class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops of one epoch: images (3, side, side) in [-1, 1] and labels (side, side)."""

    folder: ImageFolder
    side: int
    seed: tuple[int, int]
    share: float = 1.0
    zooms: tuple[float, float] = Schedule.zooms

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([*self.seed, index])
        sample = self.folder[index]
        image, labels = random_crop(sample.image, labels_of(sample), rng, self.share, self.zooms)
        if rng.random() < 0.5:
            image, labels = image[:, ::-1].copy(), labels[:, ::-1].copy()
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        pixels = F.interpolate(pixels, (self.side,) * 2, mode="bilinear", antialias=True)
        classes = torch.from_numpy(labels)[None, None].float()
        classes = F.interpolate(classes, (self.side,) * 2, mode="nearest-exact")
        return 2 * jitter_colours(pixels[0], rng) - 1, classes[0, 0].long()


def labels_of(sample: Sample) -> NDArray[np.int64]:
    """The class map, which training cannot do without."""
    if sample.labels is None:
        raise ExpediteError(f"'{sample.name}' has no annotation; training needs one for each image")
    return sample.labels


def random_crop(
    image: NDArray[np.uint8],
    labels: NDArray[np.int64],
    rng: Generator,
    share: float = 1.0,
    zooms: tuple[float, float] = Schedule.zooms,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A square, its side a share of the image's shorter side over a random zoom."""
    zoom = np.exp(rng.uniform(*np.log(zooms)))
    side = max(1, round(share * min(labels.shape) / zoom))
    height, width = (max(side, length) for length in labels.shape)
    missing = [(0, height - labels.shape[0]), (0, width - labels.shape[1])]
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    box = (slice(top, top + side), slice(left, left + side))
    image = np.pad(image, [*missing, (0, 0)])[box]
    return image, np.pad(labels, missing, constant_values=VOID)[box]


def segmentation_loss(
    model: nn.Module, images: Tensor, labels: Tensor, bf16: bool, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the class scores of images (B, 3, H, W) with labels (B, H, W).

    Args:
        model: Gives scores (B, n_cls, H, W).
        images: A batch.
        labels: Of the images.
        bf16: Whether to run under bfloat16 autocast.
        weight: How much pixels of each class count, (n_cls,); None for all the same.
    """
    device = device_of(model)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        scores = model(images.to(device))  # (B, n_cls, H, W)
    weight = None if weight is None else weight.to(device)
    return F.cross_entropy(scores.float(), labels.to(device), weight, ignore_index=VOID)


def begin(
    settings: Settings,
    n_cls: int,
    steps: int,
    device: torch.device,
    start_from: Path | None = None,
) -> Run[Segmenter]:
    """A model with random weights, or with another's, to be trained for `steps`."""
    torch.manual_seed(settings.seed)
    config = SegmenterConfig(
        image_size=(settings.window, settings.window),
        patch_size=settings.patch,
        d_model=settings.width,
        n_heads=settings.width // 64,
        n_layers=settings.layers,
        n_cls=n_cls,
        decoder_layers=settings.decoder_layers,
        drop_path_rate=settings.drop_path,
    )
    model = Segmenter(config)
    if start_from is not None:
        take_weights(model, start_from)
    return start(model.to(device), steps, settings.lr, settings.lr)


def take_weights(model: Segmenter, checkpoint: Path) -> None:
    """Begin with the weights of another Segmenter; what its classes need may be new."""
    other = load_segmenter(checkpoint)[0]
    weights, own = other.state_dict(), model.state_dict()
    positions = weights["encoder.pos_embed"]
    weights["encoder.pos_embed"] = resize_positions(positions, other.config.grid, model.config.grid)
    fitting = {n: w for n, w in weights.items() if n in own and own[n].shape == w.shape}
    left = [name for name in own if name.startswith("encoder.") and name not in fitting]
    if left:
        raise ExpediteError(
            f"{checkpoint} was to be gone on from; its encoder does not fit at '{left[0]}', so "
            "the width, layers and patch that it has are due"
        )
    model.load_state_dict(fitting, strict=False)


def pass_over(
    run: Run[Any], folder: ImageFolder, settings: Schedule, weight: Tensor | None = None
) -> float:
    """Train on every image of the folder once; returns the mean loss."""
    side, seed = settings.sides[run.epoch], (settings.seed, run.epoch)
    crops = Crops(folder, side, seed, settings.share, settings.zooms)
    order = torch.Generator().manual_seed(settings.seed + run.epoch)
    loader = DataLoader(
        crops, settings.batch, shuffle=True, generator=order, num_workers=settings.workers
    )
    run.model.train()
    pixels = [side**2 for side in settings.sides]
    return train_epoch(
        run,
        loader,
        pixels,
        lambda batch: segmentation_loss(run.model, batch[0], batch[1], settings.bf16, weight),
    )


@dataclass(frozen=True)
class Task:
    """What to learn: images with class maps, and how the data set's labels are called."""

    train: ImageFolder
    val: ImageFolder
    n_cls: int
    dataset: str


def open_task(data: Path, dataset: str, n_cls: int, val_images: int) -> Task:
    """Open the splits `train` and `val` below `data`; with 0 classes they are counted."""
    if dataset and dataset not in LABEL_RULES:
        raise ExpediteError(
            f"the label rule of '{dataset}' was asked; known are {', '.join(LABEL_RULES)}, or none "
            f"for classes from 0 with {LabelRule().ignore_index} for pixels that do not count"
        )
    rule = LABEL_RULES.get(dataset, LabelRule())
    folder = open_folder(data, "train", rule)
    val = open_folder(data, "val", rule, limit=val_images)
    found = count_classes(folder)
    if 0 < n_cls < found:
        raise ExpediteError(f"{n_cls} classes were asked and labels go up to {found - 1} in {data}")
    return Task(folder, val, n_cls or found, dataset)


def count_classes(folder: ImageFolder) -> int:
    """One more than the largest class index in a folder."""
    maps = (labels_of(sample) for sample in folder)
    return 1 + max(int(labels[labels != VOID].max(initial=0)) for labels in maps)


def class_weights(folder: ImageFolder, n_cls: int) -> Tensor:
    """One over the root of how frequent each class is, (n_cls,); the mean over pixels is 1."""
    pixels = torch.zeros(n_cls)
    for sample in folder:
        labels = torch.from_numpy(labels_of(sample))
        pixels += torch.bincount(labels[labels != VOID], minlength=n_cls)
    weight = pixels.clamp_min(1).rsqrt()
    return weight * (pixels.sum() / (pixels * weight).sum())


def train(
    task: Task,
    settings: Settings,
    out: Path,
    device: torch.device,
    resume: bool = False,
    start_from: Path | None = None,
) -> Segmenter:
    """Train, printing loss and held-out IoU after each epoch; returns the averaged model."""
    run = begin(settings, task.n_cls, steps_of(task, settings), device, start_from)
    go_through(run, task, settings, out, partial(save, settings, task.dataset, out), resume)
    return run.averaged


def steps_of(task: Task, settings: Schedule) -> int:
    """How many steps all epochs have."""
    return len(settings.sides) * math.ceil(len(task.train) / settings.batch)


def go_through(
    run: Run[Model],
    task: Task,
    settings: Schedule,
    out: Path,
    write: Callable[[Model, int], str],
    resume: bool = False,
) -> None:
    """Train for all epochs that are left, printing loss and held-out IoU after each.

    Args:
        run: Is changed.
        task: What to learn.
        settings: How.
        out: Where `training.pth` goes, which `resume` goes on from.
        write: Writes the averaged model as one for windows of such a side; returns how
            `load_model` is asked for it.
        resume: Whether to go on.
    """
    out.mkdir(parents=True, exist_ok=True)
    weight = class_weights(task.train, task.n_cls) if settings.balanced else None
    state = out / "training.pth"
    if resume and state.is_file():
        run.restore(state)
    for side in settings.sides[run.epoch :]:
        began = time.perf_counter()
        loss = pass_over(run, task.train, settings, weight)
        seconds = time.perf_counter() - began
        written = write(run.averaged, side)
        run.save(state)
        device = device_of(run.model)
        iou = measure(written, task.val, task.n_cls, device, settings.bf16).mean_iou()
        console.print(
            f"epoch {run.epoch}/{len(settings.sides)} at {side} px: loss {loss:.3f}, "
            f"mean IoU {100 * iou:.1f} %, {seconds:.0f} s"
        )


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def save(settings: Settings, dataset: str, out: Path, model: Segmenter, side: int) -> str:
    """Write a checkpoint that sees images through windows of `side`."""
    preprocessing = Preprocessing("vit", round(side / settings.share), side, side // 2, dataset)
    return f"segmenter:{save_segmenter(model, preprocessing, settings.name, out)}"


@torch.inference_mode()
def measure(
    spec: str, folder: ImageFolder, n_cls: int, device: torch.device, bf16: bool = False
) -> Agreement:
    """Compare what a model, as `load_model` is asked for it, predicts with a folder's labels."""
    loaded = load_model(spec)
    model = loaded.model.to(device)
    agreement = Agreement(n_cls)
    for sample in folder:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = predict(loaded, model, sample.image).indices
        agreement.add(torch.from_numpy(labels_of(sample)), predicted)
    return agreement


def print_ious(agreement: Agreement, names: Sequence[str] = ()) -> None:
    """A table of classes and their IoU in percent."""
    table = Table("class", "IoU %", title=f"mean IoU {100 * agreement.mean_iou():.1f} %")
    for index, iou in enumerate(agreement.iou().tolist()):
        table.add_row(names[index] if names else str(index), f"{100 * iou:.1f}")
    console.print(table)


def main(
    data: Data,
    out: Out,
    dataset: Rule = "",
    n_cls: Classes = 0,
    val_images: Limit = 100,
    width: Annotated[int, typer.Option(help="Of tokens; a head takes 64.")] = Settings.width,
    layers: Annotated[int, typer.Option(help="Encoder blocks.")] = Settings.layers,
    decoder_layers: Annotated[int, typer.Option()] = Settings.decoder_layers,
    patch: Annotated[int, typer.Option(help="Pixels.")] = Settings.patch,
    window: Annotated[int, typer.Option(help="Pixels.")] = Settings.window,
    small_epochs: Epochs = Settings.small_epochs,
    full_epochs: Epochs = Settings.full_epochs,
    batch: int = Settings.batch,
    lr: float = Settings.lr,
    short_side: Annotated[int, typer.Option(help="Of images; 0: a window.")] = Settings.short_side,
    balanced: Annotated[bool, typer.Option(help="Rare classes weigh more.")] = Settings.balanced,
    drop_path: Annotated[float, typer.Option(help="Stochastic depth.")] = Settings.drop_path,
    start_from: Annotated[Path | None, typer.Option(help="Weights of another.")] = None,
    bf16: bool = Settings.bf16,
    seed: int = Settings.seed,
    workers: Workers = Settings.workers,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    resume: Resume = False,
) -> None:
    """Train a Segmenter from scratch, first at half size and then at full size."""
    settings = Settings(
        width=width,
        layers=layers,
        decoder_layers=decoder_layers,
        patch=patch,
        window=window,
        small_epochs=small_epochs,
        full_epochs=full_epochs,
        batch=batch,
        lr=lr,
        short_side=short_side,
        balanced=balanced,
        drop_path=drop_path,
        bf16=bf16,
        seed=seed,
        workers=workers,
    )
    task = open_task(data, dataset, n_cls, val_images)
    train(task, settings, out, torch.device(device), resume, start_from)
    written = f"segmenter:{out / 'checkpoint.pth'}"
    print_ious(measure(written, task.val, task.n_cls, torch.device(device), bf16))


if __name__ == "__main__":
    run_script(main)
