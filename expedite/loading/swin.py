"""`swin:FILE`, the Swin in a published detector or segmenter, and `swin:VARIANT`, of their sizes.

Mask2Former, OneFormer and DINO have the same backbone, which transformers has as SwinBackbone. A
classifier's file loads into timm's model: `timm:NAME` with the file as its checkpoint.
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count, takewhile
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from expedite.errors import ExpediteError, first_line
from expedite.loading.model import LoadedModel, State, Wanted
from expedite.models.files import load_weights, read_state_dict, three
from expedite.models.segmenter_files import NORMALIZATIONS

Sizes = dict[str, Any]

_STAGES = ["stage1", "stage2", "stage3", "stage4"]
# As SwinConfig calls the sizes that were published.
VARIANTS: dict[str, Sizes] = {
    name: {"embed_dim": width, "depths": depths, "num_heads": heads, "window_size": window}
    for name, width, depths, heads, window in (
        ("swin_tiny", 96, [2, 2, 6, 2], [3, 6, 12, 24], 7),
        ("swin_small", 96, [2, 2, 18, 2], [3, 6, 12, 24], 7),
        ("swin_base", 128, [2, 2, 18, 2], [4, 8, 16, 32], 12),
        ("swin_large", 192, [2, 2, 18, 2], [6, 12, 24, 48], 12),
    )
}
# The paper's detector has a SwinV2, of which no file is read.
_V2 = {
    "swinv2_large": {
        **{**VARIANTS["swin_large"], "window_size": 32},
        "pretrained_window_sizes": [12, 12, 12, 6],
        "image_size": 1024,
        "out_features": _STAGES,
    }
}
_EMBEDDING = "patch_embed.proj.weight"
_TABLE = "layers.{}.blocks.{}.attn.relative_position_bias_table"
# What stands in place of what in the names of transformers.
_NAMES = {
    "patch_embed.proj.": "swin.embeddings.patch_embeddings.projection.",
    "patch_embed.norm.": "swin.embeddings.norm.",
    "layers.": "swin.encoder.layers.",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".attn.": ".attention.",
    ".attention.proj.": ".attention.o_proj.",
    ".relative_position_bias_table": ".relative_position_bias.relative_position_bias_table",
}


def build(wanted: Wanted) -> LoadedModel:
    wanted.refuse_classes()
    transformers = library(wanted)
    if wanted.name in _V2:
        return _v2(wanted, transformers)
    state, origin = weights_for(wanted, _V2)
    part = None if state is None else backbone_part(state, origin)
    with fitting_together(origin, "Swin"):
        sizes = sizes_of(wanted, part, origin)
        model = transformers.SwinBackbone(transformers.SwinConfig(**sizes)).eval()
    if part is not None:
        load_weights(model, {**unread(model), **named_as_in_transformers(part)}, origin)
    return replace(loaded(wanted, model, sizes, trained=part is not None), task="features")


def _v2(wanted: Wanted, transformers: Any) -> LoadedModel:
    if wanted.checkpoint is not None:
        raise ExpediteError(
            f"the checkpoint {wanted.checkpoint} was given for '{wanted.spec}', which reads none; "
            "a model timm:NAME takes Microsoft's files of SwinV2"
        )
    sizes = _V2[wanted.name]
    model = transformers.Swinv2Backbone(transformers.Swinv2Config(**sizes)).eval()
    return replace(loaded(wanted, model, sizes, trained=False), task="features")


@contextlib.contextmanager
def fitting_together(origin: Path, kind: str) -> Iterator[None]:
    """Say in one sentence that a file's sizes make no model."""
    try:
        yield
    except ExpediteError:
        raise
    except Exception as error:  # sizes of damaged files fail in a dozen ways
        raise ExpediteError(
            f"the weights in {origin} do not fit together to a {kind}: {first_line(error)}"
        ) from error


def library(wanted: Wanted) -> Any:
    """transformers, which has the models."""
    if importlib.util.find_spec("transformers") is None:
        raise ExpediteError(
            f"'{wanted.spec}' needs transformers; pip install 'expedite-vit[hf]' brings it"
        )
    return importlib.import_module("transformers")


def weights_for(wanted: Wanted, more: Iterable[str] = ()) -> tuple[dict[str, Tensor] | None, Path]:
    """The state dict in the file that was asked for, or in the checkpoint; None without one.

    `more` are names of other variants, for people.
    """
    path = Path(wanted.name)
    if path.is_file():
        wanted.refuse_others()
    elif wanted.name not in VARIANTS:
        raise ExpediteError(
            f"'{wanted.spec}' was asked; '{wanted.name}' is neither a checkpoint file that is "
            f"there nor a variant, which are {', '.join([*VARIANTS, *more])}"
        )
    elif wanted.checkpoint is None:
        return None, path
    else:
        path = wanted.checkpoint
    return read_state_dict(path), path


def loaded(wanted: Wanted, model: nn.Module, sizes: Sizes, trained: bool) -> LoadedModel:
    """A model, for images as in its pretraining where no size was asked for."""
    side = 32 * sizes["window_size"]
    mean, deviation = NORMALIZATIONS["deit"]
    size = wanted.image_size or (side, side)
    return LoadedModel(wanted.spec, model, size, mean, deviation, trained)


def backbone_part(state: State, origin: Path) -> dict[str, Tensor]:
    """The weights of the Swin in a model, without what stands before their names."""
    found = [name.removesuffix(_EMBEDDING) for name in state if name.endswith(_EMBEDDING)]
    if len(found) != 1 or f"{found[0]}{_TABLE.format(0, 0)}" not in state:
        raise ExpediteError(f"{origin} was asked as a Swin's, and has none among its weights")
    (prefix,) = found
    part = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix) and not name.endswith("relative_position_index")
    }
    if "head.weight" in part:
        raise ExpediteError(
            f"{origin} is a classifier's; a model timm:NAME takes it as its checkpoint"
        )
    return part


def sizes_of(wanted: Wanted, part: State | None, origin: Path) -> Sizes:
    """The sizes that weights say, or those of the variant; they must agree."""
    variant = VARIANTS.get(wanted.name)
    if part is None:
        assert variant is not None  # or there were weights
        return {**variant, "out_features": _STAGES}
    sizes = _sizes(part)
    if variant is not None and any(sizes[name] != size for name, size in variant.items()):
        raise ExpediteError(
            f"'{wanted.spec}' was asked with {origin}, which has a Swin of {sizes['embed_dim']} "
            f"channels and {sizes['depths']} blocks with windows of {sizes['window_size']}"
        )
    return sizes


def _sizes(part: State) -> Sizes:
    depths = list(takewhile(bool, (_depth(part, stage) for stage in count())))
    tables = [part[_TABLE.format(stage, 0)] for stage in range(len(depths))]
    width, _, _, patch = part[_EMBEDDING].shape
    heads = [table.shape[1] for table in tables]
    if any((width << stage) % number for stage, number in enumerate(heads)):
        raise ValueError(f"{width} channels and {heads} heads")
    return {
        "embed_dim": width,
        "depths": depths,
        "num_heads": heads,
        "window_size": (isqrt(len(tables[0])) + 1) // 2,
        "patch_size": patch,
        "mlp_ratio": len(part["layers.0.blocks.0.mlp.fc1.weight"]) / width,
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in part,
        "out_features": [f"stage{n + 1}" for n in range(len(depths)) if f"norm{n}.weight" in part],
    }


def _depth(part: State, stage: int) -> int:
    """How many blocks a stage has; none where there is no such stage."""
    return next(block for block in count() if _TABLE.format(stage, block) not in part)


def named_as_in_transformers(part: State) -> dict[str, Tensor]:
    """A backbone's weights under the names, and cut into the pieces, that SwinBackbone has."""
    found: dict[str, Tensor] = {}
    for name, tensor in part.items():
        new = name
        for old, present in _NAMES.items():
            new = new.replace(old, present)
        if new.startswith("norm"):
            stage, _, rest = new.removeprefix("norm").partition(".")
            new = f"hidden_states_norms.stage{int(stage) + 1}.{rest}" if stage.isdecimal() else new
        found |= three(new, tensor, ".qkv.") if ".qkv." in new else {new: tensor}
    return found


def unread(model: nn.Module) -> dict[str, Tensor]:
    """What published files lack or may lack, since no prediction depends on it."""
    names = ("swin.layernorm.", "criterion.")
    state: dict[str, Tensor] = model.state_dict()
    return {name: state[name] for name in state if any(part in name for part in names)}
