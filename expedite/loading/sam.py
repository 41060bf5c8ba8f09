"""`sam:FILE`, a published checkpoint of SAM, and `sam:VARIANT`: the image encoder alone.

The architecture is built by the package segment_anything.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expedite.errors import ExpediteError
from expedite.loading.model import LoadedModel, State, Triple, Wanted
from expedite.models.files import load_weights, read_state_dict

# By the width of the tokens.
_VARIANTS = {1280: "vit_h", 1024: "vit_l", 768: "vit_b"}
_ENCODER = "image_encoder."


def build(wanted: Wanted) -> LoadedModel:
    if importlib.util.find_spec("segment_anything") is None:
        raise ExpediteError(
            f"'{wanted.spec}' needs segment_anything; pip install 'expedite-vit[sam]' brings it"
        )
    path = Path(wanted.name)
    if path.is_file():
        wanted.refuse_others()
        state = _encoder_weights(read_state_dict(path))
        sam = _make(_variant(state, path))
        _load(sam, state, path)
        return _loaded(wanted, sam, trained=True)
    if wanted.name not in _VARIANTS.values():
        raise ExpediteError(
            f"'{wanted.spec}' was asked; '{wanted.name}' is neither a checkpoint file that is "
            f"there nor a variant, which are {', '.join(_VARIANTS.values())}"
        )
    if wanted.classes is not None:
        raise ExpediteError(f"{wanted.classes} classes were asked of '{wanted.spec}'; it has none")
    sam = _make(wanted.name)
    if wanted.checkpoint is None:
        return _loaded(wanted, sam, trained=False)
    state = _encoder_weights(read_state_dict(wanted.checkpoint))
    _load(sam, state, wanted.checkpoint)
    return _loaded(wanted, sam, trained=True)


def _loaded(wanted: Wanted, sam: Any, trained: bool) -> LoadedModel:
    encoder: nn.Module = sam.image_encoder
    size = (sam.image_encoder.img_size, sam.image_encoder.img_size)
    if wanted.image_size not in (None, size):
        raise ExpediteError(
            f"'{wanted.spec}' was asked at {wanted.image_size}; it takes images of {size} alone"
        )
    mean, deviation = _from_0_to_1(sam.pixel_mean), _from_0_to_1(sam.pixel_std)
    return LoadedModel(wanted.spec, encoder.eval(), size, mean, deviation, trained, task="features")


def _make(variant: str) -> Any:
    return importlib.import_module("segment_anything").sam_model_registry[variant]()


def _load(sam: Any, state: State, path: Path) -> None:
    """Load weights into an image encoder, which is made for the images that they are of."""
    positions = state.get("pos_embed")
    if positions is not None and positions.dim() == 4 and positions.shape[1] == positions.shape[2]:
        _resize(sam.image_encoder, int(positions.shape[1]))
    load_weights(sam.image_encoder, state, path)


def _resize(encoder: Any, side: int) -> None:
    """Make an image encoder that of images of so many patches to each side.

    What depends on them is the position embedding, and the relative positions of the blocks that
    attend to everything.
    """
    encoder.img_size = side * encoder.patch_embed.proj.stride[0]
    width = encoder.pos_embed.shape[-1]
    encoder.pos_embed = nn.Parameter(torch.zeros(1, side, side, width))
    for block in encoder.blocks:
        if block.window_size == 0:
            for name in ("rel_pos_h", "rel_pos_w"):
                shape = 2 * side - 1, getattr(block.attn, name).shape[1]
                setattr(block.attn, name, nn.Parameter(torch.zeros(shape)))


def _encoder_weights(state: State) -> State:
    """The image encoder's part of a whole SAM; the prompt encoder and mask decoder stay out."""
    first = next((name for name in state if name.endswith(f"{_ENCODER}pos_embed")), None)
    if first is None:
        return state
    prefix = first.removesuffix("pos_embed")
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def _variant(state: State, path: Path) -> str:
    positions = state.get("pos_embed")
    width = positions.shape[-1] if positions is not None and positions.dim() else None
    if width not in _VARIANTS:
        raise ExpediteError(
            f"{path} was asked as a SAM, and has {'no' if width is None else width} channels at "
            f"'{_ENCODER}pos_embed'; the variants have {', '.join(map(str, _VARIANTS))}"
        )
    return _VARIANTS[width]


def _from_0_to_1(pixels: Any) -> Triple:
    red, green, blue = (value / 255 for value in pixels.flatten().tolist())
    return red, green, blue
