"""`expedite calibrate`: what images without labels say of a model, in a file that plans name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expedite.cli.options import (
    AsJson,
    Checkpoint,
    Classes,
    Device,
    Dtype,
    ImageSize,
    Model,
    find_device,
    image_size_of,
    show,
    working_on,
)
from expedite.errors import ExpediteError
from expedite.measure.mode import Mode

if TYPE_CHECKING:
    from torch import Tensor

    from expedite.data.datasets import ImageFolder
    from expedite.loading import LoadedModel


def calibrate_command(
    model: Model,
    images: Annotated[Path, typer.Option(help="A folder of images; no labels are needed.")],
    alpha: Annotated[int, typer.Option(help="Of the plans that it is for.")],
    out: Annotated[Path, typer.Option(help="The file; what is there is replaced.")],
    split: Annotated[str, typer.Option(help="Which split, in a folder with images/SPLIT.")] = "val",
    limit: Annotated[int, typer.Option(help="How many images at most, spread over all.")] = 24,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Find in closed form, from images without labels, how a model's clusters are to be made."""
    size, mode = image_size_of(image_size), Mode(dtype)
    with working_on(f"loading {model}") as status:
        from expedite.data.datasets import open_folder
        from expedite.evaluate.calibrating import calibrate
        from expedite.loading import load_model

        loaded = load_model(model, size, classes, checkpoint)
        if not loaded.trained:
            raise ExpediteError(
                f"a calibration of '{loaded.name}' was asked, whose weights are random: it would "
                "say nothing of trained ones; --checkpoint FILE gives it those"
            )
        loaded.model.to(find_device(device), mode.torch_dtype)
        samples = open_folder(images, split, None, limit)
        status.step(f"calibrating on {len(samples)} images")
        found = calibrate(loaded.model, _pixels(loaded, samples), alpha=alpha)
        found.save(out)
    width, directions = found.metric.shape
    content: dict[str, Any] = {
        "path": str(out),
        "alpha": alpha,
        "images": len(samples),
        "width": width,
        "directions": directions,
    }
    show(content, [_told(content)], as_json)


def _pixels(loaded: "LoadedModel", samples: "ImageFolder") -> "Tensor":
    """Images (B, 3, H, W) of the model's size, as it sees them; of larger ones the middle."""
    import torch

    from expedite.data.images import resize, resize_short_side
    from expedite.evaluate.predict import pixels_of, shown_of

    def fitted(image: Any) -> Any:
        if loaded.window_stride is None:
            return resize(shown_of(loaded, image), loaded.image_size)
        image = resize_short_side(image, loaded.short_side or min(image.shape[:2]))
        top, left = (
            max(0, (side - wanted) // 2)
            for side, wanted in zip(image.shape[:2], loaded.image_size, strict=True)
        )
        height, width = loaded.image_size
        return resize(image[top : top + height, left : left + width], loaded.image_size)

    return torch.stack([pixels_of(loaded, fitted(sample.image)) for sample in samples])


def _told(content: dict[str, Any]) -> str:
    return (
        f"{content['path']}: {content['directions']} directions of {content['width']} channels, "
        f"from {content['images']} images, for alpha={content['alpha']}\n"
        f"expedite.patch(model, alpha={content['alpha']}, keep=0.25, "
        f"calibration={content['path']!r})"
    )
