"""`timm:NAME`, with random weights or a checkpoint's."""

import re
from typing import Any

import timm
from timm.data.config import resolve_data_config
from torch import Tensor

from expedite.errors import ExpediteError, first_line
from expedite.loading.center_crop import CenterCrop
from expedite.loading.model import LoadedModel, State, Wanted

# What Microsoft's files of Swin and SwinV2 hold besides weights.
_NO_WEIGHTS = ("relative_position_index", "relative_coords_table", "attn_mask")


def build(wanted: Wanted) -> LoadedModel:
    if not timm.is_model(wanted.name):
        near = timm.list_models(f"*{wanted.name}*")[:5] or timm.list_models("vit_*")[:5]
        raise ExpediteError(
            f"'{wanted.spec}' was asked, which timm does not know; it has {', '.join(near)}"
        )
    arguments = {"img_size": wanted.image_size, "num_classes": wanted.classes}
    given: dict[str, Any] = {key: value for key, value in arguments.items() if value is not None}
    try:
        model = timm.create_model(wanted.name, pretrained=False, **given).eval()
    except TypeError as error:  # not every architecture takes both
        asked = ", ".join(f"{key}={value}" for key, value in given.items())
        raise ExpediteError(
            f"'{wanted.spec}' was asked with {asked}, which timm refuses: {first_line(error)}"
        ) from error
    config: dict[str, Any] = resolve_data_config(model=model)  # type: ignore[no-untyped-call]
    size = wanted.image_size or config["input_size"][1:]
    trained = wanted.fill(model, as_in_timm)
    crop = CenterCrop.of_config(config, size)
    return LoadedModel(wanted.spec, model, size, config["mean"], config["std"], trained, crop=crop)


def as_in_timm(state: State) -> State:
    """Microsoft's weights of a Swin or SwinV2 under timm's names; any others as they are.

    Microsoft merges patches where a stage ends, timm where the next one begins.
    """
    if "layers.0.downsample.reduction.weight" not in state:
        return state
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.endswith(_NO_WEIGHTS):
            new = re.sub(r"^layers\.(\d+)\.downsample", _next_stage, name)
            found[re.sub(r"^head\.", "head.fc.", new)] = tensor
    return found


def _next_stage(found: re.Match[str]) -> str:
    return f"layers.{int(found[1]) + 1}.downsample"
