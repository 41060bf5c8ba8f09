"""`timm:NAME`, with random weights or a checkpoint's."""

import re
from typing import Any

import timm
from timm.data.config import resolve_data_config
from torch import Tensor

from expedite.errors import ExpediteError, first_line
from expedite.loading.center_crop import CenterCrop
from expedite.loading.model import LoadedModel, State, Wanted

# The layers of DINOv2's largest MLP.
_DINOV2_NAMES = {".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}
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
    """Weights of Microsoft's Swins and of DINOv2's hub under timm's names; others as they are.

    Microsoft merges patches where a stage ends, timm where the next one begins.
    """
    if "mask_token" in state and "pos_embed" in state:
        return _dinov2(state)
    if "layers.0.downsample.reduction.weight" not in state:
        return state
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.endswith(_NO_WEIGHTS):
            new = re.sub(r"^layers\.(\d+)\.downsample", _next_stage, name)
            found[re.sub(r"^head\.", "head.fc.", new)] = tensor
    return found


def _dinov2(state: State) -> State:
    """Without what only training needs; timm's models with registers give the class no position."""
    found = {name: tensor for name, tensor in state.items() if name != "mask_token"}
    if "register_tokens" in found:
        positions = found["pos_embed"]
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + positions[:, :1]
        found["pos_embed"] = positions[:, 1:]
    for old, new in _DINOV2_NAMES.items():
        found = {name.replace(old, new): tensor for name, tensor in found.items()}
    return found


def _next_stage(found: re.Match[str]) -> str:
    return f"layers.{int(found[1]) + 1}.downsample"
