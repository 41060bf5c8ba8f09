"""The published files of a Segmenter: `checkpoint.pth` with `variant.yml` beside it.

Source: rstrudel/segmenter, `segm/model/factory.py` and `segm/config.yml`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from expedite.errors import ExpediteError
from expedite.models.descriptions import describing, read_yaml, refuse_too_many
from expedite.models.files import filled, read_state_dict, write_checkpoint
from expedite.models.segmenter import Segmenter, SegmenterConfig

_TINY = {"d_model": 192, "n_heads": 3, "n_layers": 12}
_SMALL = {"d_model": 384, "n_heads": 6, "n_layers": 12}
_BASE = {"d_model": 768, "n_heads": 12, "n_layers": 12}
_LARGE = {"d_model": 1024, "n_heads": 16, "n_layers": 24}
_DEIT = {"patch_size": 16, "distilled": True, "normalization": "deit"}

# Every backbone of the published config.yml, with its training size in pixels.
BACKBONES: dict[str, dict[str, Any]] = {
    "deit_tiny_distilled_patch16_224": {**_TINY, **_DEIT, "image_size": 224},
    "deit_small_distilled_patch16_224": {**_SMALL, **_DEIT, "image_size": 224},
    "deit_base_distilled_patch16_224": {**_BASE, **_DEIT, "image_size": 224},
    "deit_base_distilled_patch16_384": {**_BASE, **_DEIT, "image_size": 384},
    "vit_base_patch8_384": {**_BASE, "patch_size": 8, "image_size": 384},
    "vit_tiny_patch16_384": {**_TINY, "patch_size": 16, "image_size": 384},
    "vit_small_patch16_384": {**_SMALL, "patch_size": 16, "image_size": 384},
    "vit_base_patch16_384": {**_BASE, "patch_size": 16, "image_size": 384},
    "vit_large_patch16_384": {**_LARGE, "patch_size": 16, "image_size": 384},
    "vit_small_patch32_384": {**_SMALL, "patch_size": 32, "image_size": 384},
    "vit_base_patch32_384": {**_BASE, "patch_size": 32, "image_size": 384},
    "vit_large_patch32_384": {**_LARGE, "patch_size": 32, "image_size": 384},
}

Normalization = Literal["vit", "deit"]
# Mean and deviation per channel of RGB from 0 to 1.
NORMALIZATIONS: dict[Normalization, tuple[tuple[float, float, float], ...]] = {
    "vit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "deit": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class Preprocessing:
    """How the published evaluation feeds a checkpoint.

    Args:
        normalization: "vit" (mean and deviation 0.5) or "deit" (those of ImageNet).
        im_size: Pixels of the image's shorter side after resizing.
        window_size: Side of a sliding window in pixels.
        window_stride: Step between windows in pixels.
        dataset: Name of the data set it was trained on, which fixes how labels are stored.
    """

    normalization: Normalization
    im_size: int
    window_size: int
    window_stride: int
    dataset: str


def build_segmenter(
    backbone: str,
    image_size: tuple[int, int] | None = None,
    n_cls: int = 150,
    decoder: str = "mask_transformer",
) -> tuple[Segmenter, Preprocessing]:
    """Make a published architecture with random weights.

    Example:
        >>> import torch
        >>> model, _ = build_segmenter("vit_tiny_patch16_384", image_size=(64, 64), n_cls=4)
        >>> model(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 4, 64, 64])
    """
    if backbone not in BACKBONES:
        raise ExpediteError(
            f"a Segmenter with backbone '{backbone}' was asked; known are {', '.join(BACKBONES)}"
        )
    net = {"normalization": "vit", **BACKBONES[backbone], "n_cls": n_cls}
    net["decoder"] = {"name": decoder}
    side = net["image_size"]
    if image_size is not None:
        net["image_size"] = list(image_size)
        side = min(image_size)
    preprocessing = Preprocessing(net["normalization"], side, side, side, dataset="")
    return Segmenter(_config(net, Path(backbone))), preprocessing


def load_segmenter(checkpoint: Path) -> tuple[Segmenter, Preprocessing]:
    """Load a published checkpoint, in eval mode; `variant.yml` must lie beside it.

    Raises:
        ExpediteError: A file is missing or damaged, a setting is missing, or keys do not fit.
    """
    variant_path = checkpoint.with_name("variant.yml")
    state = read_state_dict(checkpoint)
    variant = read_yaml(variant_path)
    net = _section(variant, "net_kwargs", variant_path)
    with describing(variant_path, "Segmenter"):
        config = _config(net, variant_path)
        refuse_too_many(config.n_layers + config.decoder_layers, state, variant_path)
        model = filled(lambda: Segmenter(config), state, checkpoint)
    inference = _section(variant, "inference_kwargs", variant_path)
    dataset = variant.get("dataset_kwargs", {})
    preprocessing = Preprocessing(
        normalization=_normalization(net, variant_path),
        im_size=_integer(inference, "im_size", variant_path),
        window_size=_integer(inference, "window_size", variant_path),
        window_stride=_integer(inference, "window_stride", variant_path),
        dataset=str(dataset.get("dataset", "")) if isinstance(dataset, dict) else "",
    )
    return model.eval(), preprocessing


def save_segmenter(
    model: Segmenter, preprocessing: Preprocessing, backbone: str, folder: Path
) -> Path:
    """Write `checkpoint.pth` and `variant.yml` as the published code reads them."""
    config = model.config
    net = {
        "backbone": backbone,
        "image_size": list(config.image_size),
        "patch_size": config.patch_size,
        "d_model": config.d_model,
        "n_heads": config.n_heads,
        "n_layers": config.n_layers,
        "n_cls": config.n_cls,
        "normalization": preprocessing.normalization,
        "distilled": config.distilled,
        "dropout": config.dropout,
        "drop_path_rate": config.drop_path_rate,
        "decoder": _decoder_section(config),
    }
    variant = {
        "net_kwargs": net,
        "inference_kwargs": {
            "im_size": preprocessing.im_size,
            "window_size": preprocessing.window_size,
            "window_stride": preprocessing.window_stride,
        },
        "dataset_kwargs": {
            "dataset": preprocessing.dataset,
            "normalization": preprocessing.normalization,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pth"
    write_checkpoint({"model": model.state_dict()}, path)
    (folder / "variant.yml").write_text(yaml.safe_dump(variant))
    return path


def _config(net: dict[str, Any], origin: Path) -> SegmenterConfig:
    decoder = _section(net, "decoder", origin)
    name = decoder.get("name")
    if name not in ("mask_transformer", "linear"):
        raise ExpediteError(
            f"{origin} asks for the decoder {name!r}; 'mask_transformer' and 'linear' are known"
        )
    size = net.get("image_size")
    if isinstance(size, int):
        size = [size, size]
    sides = size if isinstance(size, (list, tuple)) else ()
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ExpediteError(f"{origin} gives the image_size {size!r}; one or two integers are due")
    return SegmenterConfig(
        image_size=(sides[0], sides[1]),
        patch_size=_integer(net, "patch_size", origin),
        d_model=_integer(net, "d_model", origin),
        n_heads=_integer(net, "n_heads", origin),
        n_layers=_integer(net, "n_layers", origin),
        n_cls=_integer(net, "n_cls", origin),
        distilled=bool(net.get("distilled", False)),
        decoder=cast(Literal["mask_transformer", "linear"], name),
        decoder_layers=_integer({"n_layers": 2, **decoder}, "n_layers", origin),
        dropout=float(net.get("dropout", 0.0)),
        drop_path_rate=float(net.get("drop_path_rate", 0.0)),
        decoder_dropout=float(decoder.get("dropout", 0.0)),
        decoder_drop_path_rate=float(decoder.get("drop_path_rate", 0.0)),
    )


def _decoder_section(config: SegmenterConfig) -> dict[str, Any]:
    if config.decoder == "linear":
        return {"name": "linear"}
    return {
        "name": config.decoder,
        "n_layers": config.decoder_layers,
        "dropout": config.decoder_dropout,
        "drop_path_rate": config.decoder_drop_path_rate,
    }


def _section(content: dict[str, Any], name: str, origin: Path) -> dict[str, Any]:
    section = content.get(name)
    if not isinstance(section, dict):
        raise ExpediteError(f"{origin} has no section '{name}', which a published variant.yml has")
    return section


def _integer(section: dict[str, Any], name: str, origin: Path) -> int:
    value = section.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ExpediteError(f"{origin} gives {name}={value!r}; a positive integer is due")
    return value


def _normalization(net: dict[str, Any], origin: Path) -> Normalization:
    value = net.get("normalization")
    if value not in ("vit", "deit"):
        raise ExpediteError(
            f"{origin} gives the normalization {value!r}; 'vit' or 'deit' are known"
        )
    return cast(Normalization, value)
