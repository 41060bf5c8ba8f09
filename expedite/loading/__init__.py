"""Models by name, as the command line takes them: `segmenter:…`, `hf:…`, `timm:…`, `FILE.py:…`."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError
from torch import nn

from expedite.errors import ExpediteError
from expedite.models.segmenter_files import (
    BACKBONES,
    NORMALIZATIONS,
    Preprocessing,
    build_segmenter,
    load_segmenter,
)

Triple = tuple[float, float, float]

_FORMS = (
    "segmenter:FILE (a checkpoint with its variant.yml), hf:FOLDER (of a model of transformers, or "
    "its name on the hub), segmenter:BACKBONE, timm:NAME, torchvision:NAME (all three with random "
    "weights) or FILE.py:FACTORY"
)


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with what is needed to feed it images.

    Args:
        name: As it was asked for.
        model: The model.
        image_size: (height, width) in pixels of the images it is run on, or of sliding windows.
        mean: Per channel of RGB from 0 to 1.
        deviation: Per channel.
        trained: Whether its weights come from training; figures of accuracy need that.
        window_stride: Step of sliding windows in pixels; None resizes whole images.
        short_side: Pixels of an image's shorter side before windows are cut.
        dataset: The data set it was trained on by its published name, where known.
    """

    name: str
    model: nn.Module
    image_size: tuple[int, int]
    mean: Triple
    deviation: Triple
    trained: bool
    window_stride: int | None = None
    short_side: int | None = None
    dataset: str = ""


def load_model(
    spec: str, image_size: tuple[int, int] | None = None, classes: int | None = None
) -> LoadedModel:
    """Make or load the model that `spec` names.

    Args:
        spec: `segmenter:FILE`, `segmenter:BACKBONE`, `hf:FOLDER`, `timm:NAME`, `torchvision:NAME`
            or `FILE.py:FACTORY`, a function without arguments that returns a model with weights.
        image_size: (height, width); None takes the model's own.
        classes: How many, where weights are random; None takes the architecture's own.

    Raises:
        ExpediteError: Nothing of that name is known, or what was found is damaged.

    Example:
        >>> load_model("segmenter:vit_tiny_patch16_384", (64, 64), classes=4).trained
        False
    """
    kind, _, name = spec.partition(":")
    if kind in _KINDS:
        return _KINDS[kind](spec, name, image_size, classes)
    path, _, factory = spec.rpartition(":")
    if path.endswith(".py"):
        return _factory(spec, Path(path), factory, image_size)
    raise ExpediteError(f"the model '{spec}' was asked; the forms are {_FORMS}")


def _segmenter(
    spec: str, name: str, image_size: tuple[int, int] | None, classes: int | None
) -> LoadedModel:
    path = Path(name)
    if path.is_file():
        if classes is not None:
            raise ExpediteError(f"{classes} classes were asked of {path}, which has its own number")
        model, preprocessing = load_segmenter(path)
        return _loaded_segmenter(spec, model, preprocessing, image_size, trained=True)
    if name in BACKBONES:
        model, preprocessing = build_segmenter(name, image_size, classes or 150)
        return _loaded_segmenter(spec, model.eval(), preprocessing, image_size, trained=False)
    raise ExpediteError(
        f"'{spec}' was asked; '{name}' is neither a checkpoint file that is there nor a published "
        f"backbone, which are {', '.join(BACKBONES)}"
    )


def _loaded_segmenter(
    spec: str,
    model: nn.Module,
    preprocessing: Preprocessing,
    image_size: tuple[int, int] | None,
    trained: bool,
) -> LoadedModel:
    mean, deviation = NORMALIZATIONS[preprocessing.normalization]
    window = preprocessing.window_size
    return LoadedModel(
        name=spec,
        model=model,
        image_size=image_size or (window, window),
        mean=mean,
        deviation=deviation,
        trained=trained,
        window_stride=preprocessing.window_stride,
        short_side=preprocessing.im_size,
        dataset=preprocessing.dataset,
    )


def _timm(
    spec: str, name: str, image_size: tuple[int, int] | None, classes: int | None
) -> LoadedModel:
    import timm
    from timm.data.config import resolve_data_config

    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:5] or timm.list_models("vit_*")[:5]
        raise ExpediteError(
            f"'{spec}' was asked, which timm does not know; it has {', '.join(near)}"
        )
    arguments: dict[str, Any] = {"img_size": image_size, "num_classes": classes}
    given = {key: value for key, value in arguments.items() if value is not None}
    model = timm.create_model(name, pretrained=False, **given).eval()
    config: dict[str, Any] = resolve_data_config(model=model)  # type: ignore[no-untyped-call]
    size = image_size or config["input_size"][1:]
    return LoadedModel(spec, model, size, config["mean"], config["std"], trained=False)


def _torchvision(
    spec: str, name: str, image_size: tuple[int, int] | None, classes: int | None
) -> LoadedModel:
    from torchvision import models  # type: ignore[import-untyped]

    if name not in (known := models.list_models()):
        near = [model for model in known if model.startswith("vit")]
        raise ExpediteError(
            f"'{spec}' was asked, which torchvision does not know; it has {', '.join(near)}"
        )
    given: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if image_size is not None and name.startswith("vit"):
        if image_size[0] != image_size[1]:
            raise ExpediteError(f"'{spec}' was asked at {image_size}; it takes square images alone")
        given["image_size"] = image_size[0]
    model = models.get_model(name, weights=None, **given).eval()
    side = getattr(model, "image_size", 224)
    mean, deviation = NORMALIZATIONS["deit"]
    return LoadedModel(spec, model, image_size or (side, side), mean, deviation, trained=False)


def _hugging_face(
    spec: str, name: str, image_size: tuple[int, int] | None, classes: int | None
) -> LoadedModel:
    if importlib.util.find_spec("transformers") is None:
        raise ExpediteError(f"'{spec}' needs transformers; pip install 'expedite[hf]' brings it")
    if classes is not None:
        raise ExpediteError(f"{classes} classes were asked of '{spec}', which has its own number")
    transformers: Any = importlib.import_module("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        make = getattr(transformers, (config.architectures or ["AutoModel"])[0])
        model = make.from_pretrained(name).eval()
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExpediteError(f"'{spec}' was asked and cannot be loaded: {reason}") from error
    mean, deviation = _processing(name)
    backbone = getattr(config, "backbone_config", None)
    side: Any = getattr(config, "image_size", None) or getattr(backbone, "image_size", 224)
    size = image_size or ((side, side) if isinstance(side, int) else (side[0], side[1]))
    return LoadedModel(spec, model, size, mean, deviation, trained=True)


def _processing(name: str) -> tuple[Triple, Triple]:
    """Mean and deviation of the image processor that is stored with a model, if one is."""
    transformers: Any = importlib.import_module("transformers")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        mean, deviation = processor.image_mean, processor.image_std
    except OSError:
        mean, deviation = NORMALIZATIONS["vit"]
    return (mean[0], mean[1], mean[2]), (deviation[0], deviation[1], deviation[2])


def _factory(
    spec: str, path: Path, factory: str, image_size: tuple[int, int] | None
) -> LoadedModel:
    make = getattr(_import(path), factory, None)
    if not callable(make):
        raise ExpediteError(f"'{spec}' was asked; {path} defines no function '{factory}'")
    model = make()
    if not isinstance(model, nn.Module):
        raise ExpediteError(
            f"'{spec}' was asked; {factory}() returned a {type(model).__name__}, and a "
            "torch.nn.Module is due"
        )
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    size = image_size or tuple(config.get("input_size", ())[1:])
    if len(size) != 2:
        raise ExpediteError(f"'{spec}' does not say its image size; give --image-size")
    mean, deviation = NORMALIZATIONS["deit"]
    mean, deviation = config.get("mean", mean), config.get("std", deviation)
    return LoadedModel(spec, model.eval(), (size[0], size[1]), mean, deviation, trained=True)


_Kind = Callable[[str, str, tuple[int, int] | None, int | None], LoadedModel]
_KINDS: dict[str, _Kind] = {
    "segmenter": _segmenter,
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _hugging_face,
}


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"expedite_model_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ExpediteError(f"a model was asked from {path}, which is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes can be pickled
    spec.loader.exec_module(module)
    return module
