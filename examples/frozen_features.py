"""What heads on a frozen backbone learn from: its tokens of every view of every image, on disk.

    python -m benchmarks.real_weights
    python examples/frozen_features.py --backbone WEIGHTS --data CAMVID --out FEATURES

A view is the whole frame, or a part of it, mirrored and with other colours; the tokens are those
after blocks 3, 6, 9 and 12, before any norm, in float16: 5 MB a view. The blocks run in bfloat16,
which takes two thirds of the time of float32; heads are measured on the backbone in float32. What
is there is left as it is, so that a run that was stopped goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from frozen_heads import SCENE, STREET, TAPS, load_backbone
from numpy.random import Generator
from numpy.typing import NDArray
from rich.progress import track
from running import run_script
from torch import Tensor, nn
from torch.utils.data import Dataset
from training import jitter_colours

from expedite.data.datasets import open_folder
from expedite.data.truths import LABEL_RULES, Sample
from expedite.errors import ExpediteError
from expedite.models.files import read_state_dict
from expedite.scenes.scenes import render_scene, scene_seed

Size = tuple[int, int]
_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
_DEVIATION = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


@dataclass(frozen=True)
class View:
    """An image (3, H, W) from 0 to 1 with its truth (H, W), under a name of its own."""

    name: str
    image: Tensor
    truth: NDArray[Any]


def view_of(sample: Sample, index: int) -> View:
    """View 0 is the whole frame; others are from half of its sides on, mirrored every second time.

    They are the same on every call.
    """
    if sample.labels is None:
        raise ExpediteError(f"'{sample.name}' has no annotation; training needs one for each image")
    image = torch.tensor(sample.image).permute(2, 0, 1)[None].float() / 255
    labels = torch.tensor(sample.labels)[None, None].float()
    rng = np.random.default_rng([index, *sample.name.encode()])
    if index > 0:
        rows, columns = part_of((image.shape[2], image.shape[3]), rng)
        image, labels = image[..., rows, columns], labels[..., rows, columns]
        if index % 2:
            image, labels = image.flip(-1), labels.flip(-1)
    image = F.interpolate(image, STREET, mode="bicubic", antialias=True).clamp(0, 1)[0]
    truth = F.interpolate(labels, STREET, mode="nearest-exact")[0, 0]
    image = jitter_colours(image, rng) if index > 0 else image
    return View(f"{sample.name}.{index}", image, truth.short().numpy())


def part_of(size: Size, rng: Generator) -> tuple[slice, slice]:
    """A rectangle of the same aspect, of half to all of the sides."""
    share = np.exp(rng.uniform(np.log(0.5), 0))
    sides = [round(share * side) for side in size]
    starts = [int(rng.integers(whole - side + 1)) for whole, side in zip(size, sides, strict=True)]
    rows, columns = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    return rows, columns


def street_views(data: Path, split: str, views: int) -> Iterator[View]:
    """Views of every frame of CamVid: all of the first kind, then all of the next."""
    folder = open_folder(data, split, LABEL_RULES["camvid"])
    for index in range(views):
        for sample in folder:
            yield view_of(sample, index)


def scene_views(split: str, count: int) -> Iterator[View]:
    """Generated scenes with their depth in metres."""
    for index in range(count):
        scene = render_scene(scene_seed(split, index), SCENE)
        image = torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255
        yield View(f"{index:05}", image, scene.depth)


@torch.inference_mode()
def tokens_of(backbone: Any, image: Tensor) -> Tensor:
    """Tokens (taps, N, C) of an image (3, H, W) from 0 to 1, without the class token."""
    indices = [tap - 1 for tap in TAPS]
    dtype = next(backbone.parameters()).dtype
    images = ((image - _MEAN) / _DEVIATION)[None].to(dtype)
    found = backbone.forward_intermediates(
        images, indices=indices, output_fmt="NLC", intermediates_only=True
    )
    return torch.cat(found)


def keep(backbone: nn.Module, views: Iterator[View], total: int, folder: Path) -> None:
    """Write the tokens and the truth of views that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for view in track(views, str(folder), total):
        path = folder / f"{view.name}.npz"
        if not path.exists():
            partial = path.with_suffix(".partial.npz")
            tokens = tokens_of(backbone, view.image).half().numpy()
            np.savez(partial, tokens=tokens, truth=view.truth)
            partial.replace(path)


@dataclass(frozen=True)
class Kept(Dataset[tuple[Tensor, Tensor]]):
    """Tokens (taps, N, C) in float16 and truth (H, W) of the views in a folder."""

    paths: list[Path]

    @classmethod
    def of(cls, folder: Path, pattern: str = "*") -> "Kept":
        """The views that are there, by name.

        Raises:
            ExpediteError: There are none.
        """
        paths = sorted(
            path for path in folder.glob(f"{pattern}.npz") if ".partial" not in path.name
        )
        if not paths:
            raise ExpediteError(
                f"{folder} was to hold tokens of views; examples/frozen_features.py writes them"
            )
        return cls(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with np.load(self.paths[index]) as stored:
            return torch.from_numpy(stored["tokens"]), torch.from_numpy(stored["truth"])


class Normed:
    """The backbone's last norm, which every head reads tokens after."""

    def __init__(self, weights: Path) -> None:
        state = read_state_dict(weights)
        self.weight, self.bias = state["norm.weight"], state["norm.bias"]

    def maps(self, tokens: Tensor, taps: tuple[int, ...], rows: int) -> list[Tensor]:
        """Maps (B, C, h, w) of the blocks that a head reads, from tokens (B, taps, N, C)."""
        body = tokens[:, [TAPS.index(tap) for tap in taps]].float()
        body = F.layer_norm(body, body.shape[-1:], self.weight, self.bias, eps=1e-6)
        batch, _, _, channels = body.shape
        return [one.transpose(1, 2).reshape(batch, channels, rows, -1) for one in body.unbind(1)]


def main(
    backbone: Annotated[Path, typer.Option(help="Weights for timm.")],
    out: Annotated[Path, typer.Option(help="Where the tokens go.")],
    data: Annotated[Path | None, typer.Option(help="CamVid; none for scenes alone.")] = None,
    views: Annotated[int, typer.Option(help="Of every training frame.")] = 2,
    scenes: Annotated[int, typer.Option(help="How many generated scenes.")] = 400,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 1,
) -> None:
    """Keep tokens of CamVid and of generated scenes."""
    torch.set_num_threads(threads)
    model = load_backbone(backbone).bfloat16()
    if data is not None:
        for split, count in (("train", 1), ("val", 1), ("train", views)):
            frames = len(open_folder(data, split, LABEL_RULES["camvid"]))
            found = street_views(data, split, count)
            keep(model, found, count * frames, out / "street" / split)
    for split, count in (("train", scenes), ("val", max(1, scenes // 10))):
        keep(model, scene_views(split, count), count, out / "scenes" / split)


if __name__ == "__main__":
    run_script(main)
