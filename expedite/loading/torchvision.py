"""`torchvision:NAME`, with random weights or a checkpoint's."""

from inspect import signature
from pathlib import Path
from typing import Any

from torchvision import models  # type: ignore[import-untyped]

from expedite.errors import ExpediteError
from expedite.loading.center_crop import CenterCrop
from expedite.loading.model import LoadedModel, State, Wanted
from expedite.models.segmenter_files import NORMALIZATIONS

# Files written before torchvision 0.14, all of the published ones among them, call the two layers
# of an MLP so.
_OLDER_NAMES = {".mlp.linear_1.": ".mlp.0.", ".mlp.linear_2.": ".mlp.3."}


def build(wanted: Wanted) -> LoadedModel:
    if wanted.name not in (known := models.list_models()):
        near = [model for model in known if model.startswith("vit")]
        raise ExpediteError(
            f"'{wanted.spec}' was asked, which torchvision does not know; it has {', '.join(near)}"
        )
    given: dict[str, Any] = {} if wanted.classes is None else {"num_classes": wanted.classes}
    size = wanted.image_size
    if size is not None and wanted.name.startswith("vit"):
        if size[0] != size[1]:
            raise ExpediteError(
                f"'{wanted.spec}' was asked at {size}; it takes square images alone"
            )
        patch = int(wanted.name.rpartition("_")[2])
        if size[0] % patch:
            raise ExpediteError(
                f"'{wanted.spec}' was asked at {size}; its patches need multiples of {patch}"
            )
        given["image_size"] = size[0]
    if "weights_backbone" in signature(models.get_model_builder(wanted.name)).parameters:
        given["weights_backbone"] = None  # which is a download elsewhere
    model = models.get_model(wanted.name, weights=None, **given).eval()
    trained = wanted.fill(model, _present_names)
    side = getattr(model, "image_size", 224)
    mean, deviation = NORMALIZATIONS["deit"]
    size = size or (side, side)
    crop = _crop(wanted, size)
    return LoadedModel(wanted.spec, model, size, mean, deviation, trained, crop=crop)


def _crop(wanted: Wanted, size: tuple[int, int]) -> CenterCrop | None:
    """How the published weights for this size are evaluated: those of the file, or the first."""
    found, height, width = None, *size
    cuts = [[height, width], [height]] if height == width else [[height, width]]
    for weights in models.get_model_weights(wanted.name):
        preset = weights.transforms()
        if getattr(preset, "crop_size", None) not in cuts:
            continue
        side = preset.resize_size[0]
        crop = CenterCrop((side, side), True, preset.interpolation.value)
        if wanted.checkpoint and wanted.checkpoint.name == Path(weights.url).name:
            return crop
        found = found or crop
    return found


def _present_names(state: State) -> State:
    return {_present_name(name): tensor for name, tensor in state.items()}


def _present_name(name: str) -> str:
    for older, present in _OLDER_NAMES.items():
        name = name.replace(older, present)
    return name
