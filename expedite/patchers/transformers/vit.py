"""Plain ViTs of transformers: ViT, DeiT, DINOv2 and its registers, DINOv3, DPT, BEiT, Data2Vec.

Found by the names of classes, since paths inside these models move between releases. The library
records what blocks put out through hooks of its own; hidden states, feature maps and DPT's stages
all come from there, so what is read of a call follows from the model and how it is called.
"""

from collections.abc import Mapping
from functools import partial
from inspect import signature
from typing import Any, NoReturn

from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patchers.transformers import beit as huggingface_beit
from expedite.patching.host import (
    Host,
    Mask,
    Readout,
    Reads,
    Rotary,
    apply_child,
    attribute,
    map_grid,
    own_class,
)

# The oldest version whose models are patched.
OLDEST = (5, 18)
# Blocks, with the name of their first norm and how many tokens stand before the grid's.
_BLOCKS = {
    "ViTLayer": ("layernorm_before", 1),
    "DeiTLayer": ("layernorm_before", 2),
    "Dinov2Layer": ("norm1", 1),
    "Dinov2WithRegistersLayer": ("norm1", 1),
    "DINOv3ViTLayer": ("norm1", 1),
    "DPTViTLayer": ("layernorm_before", 1),
    "BeitLayer": ("layernorm_before", 1),
    "Data2VecVisionLayer": ("layernorm_before", 1),
}
# Heads by what they read of the last block; what is not here reads every token.
_READOUTS: Mapping[str, Readout] = {
    "ViTForImageClassification": "prefix",
    "DeiTForImageClassification": "prefix",
    "DeiTForImageClassificationWithTeacher": "prefix",
    "DepthAnythingForDepthEstimation": "taps",
    "DPTForDepthEstimation": "taps",
    "DPTForSemanticSegmentation": "taps",
    "UperNetForSemanticSegmentation": "taps",
    "Dinov2Backbone": "taps",
    "Dinov2WithRegistersBackbone": "taps",
    "BeitForImageClassification": "mean",  # or the class token, which stays beside it
    "BeitForSemanticSegmentation": "taps",
    "BeitBackbone": "taps",
    "Data2VecVisionForSemanticSegmentation": "taps",
    "ZoeDepthForDepthEstimation": "taps",
}
_BACKBONES = {
    "ViTModel",
    "DeiTModel",
    "Dinov2Model",
    "Dinov2WithRegistersModel",
    "DINOv3ViTModel",
    "DINOv3ViTBackbone",
    "DPTModel",
    "Dinov2Backbone",
    "Dinov2WithRegistersBackbone",
    "BeitModel",
    "BeitBackbone",
    "Data2VecVisionModel",
}


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a plain ViT of transformers; None where it is something else."""
    name = own_class(module).__name__
    if name not in _READOUTS.keys() | _BACKBONES or not is_of_transformers(module):
        return None
    backbone = _backbone(module)
    if backbone is None:
        return None  # a model of theirs around some other backbone
    check_version()
    blocks = tuple(m for m in backbone.modules() if own_class(m).__name__ in _BLOCKS)
    config = attribute(backbone, "config")
    return Host(
        family=f"transformers {name}",
        model=module,
        backbone=backbone,
        blocks=blocks,
        prefix_tokens=_BLOCKS[own_class(blocks[0]).__name__][1]
        + getattr(config, "num_register_tokens", 0),
        embedding=_projection(backbone),
        grid=map_grid,
        usual_grid=usual_grid(config),
        any_size=True,
        first_norm=_first_norm,
        mask=_mask(config, blocks[0]),
        rotary=Rotary("position_embeddings", swap, join),
        bias=huggingface_beit.find_bias(backbone),
        readout=_readout,
        pooled=huggingface_beit.pooled(backbone),
        reads=partial(_reads, attention=config._attn_implementation),
        taps="hidden states and feature maps, where a call reads them",
    )


def check_attention(model: nn.Module, backbone: nn.Module, attention: str) -> None:
    """Refuse to run with another attention than the one that a model was patched with."""
    now = attribute(backbone, "config")._attn_implementation
    if now != attention:
        raise ExpediteError(
            f"a {own_class(model).__name__} was patched with the attention '{attention}' and is "
            f"run with '{now}'; patch it again"
        )


def check_version() -> None:
    """Refuse a version of the library whose models cannot be patched."""
    import transformers

    # Older ones hand their blocks no mask, or collect hidden states where no hook can hand them
    # the full grid.
    major, minor = transformers.__version__.split(".")[:2]
    if (int(major), int(minor)) < OLDEST:
        raise ExpediteError(
            f"a model of transformers {transformers.__version__} was given; "
            f"{OLDEST[0]}.{OLDEST[1]} or newer is due"
        )


def is_of_transformers(module: nn.Module) -> bool:
    """Whether a module's class is the library's, or is made from one that is."""
    return any(kind.__module__.startswith("transformers.") for kind in type(module).__mro__)


def _backbone(module: nn.Module) -> nn.Module | None:
    return next((m for m in module.modules() if own_class(m).__name__ in _BACKBONES), None)


def _mask(config: Any, block: nn.Module) -> Mask | None:
    """How the attention that a model was loaded with takes a mask of floats, if it does."""
    kind = config._attn_implementation
    if own_class(block).__name__ == "Data2VecVisionLayer":
        return Mask("relative_position_bias", position=2)
    if own_class(block).__name__ != "DPTViTLayer":
        takes_floats = kind in ("sdpa", "eager")
        return Mask("attention_mask", made_for_exports=True) if takes_floats else None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # DPT's blocks take no mask, but hand what they do not know to the attention function.
    takes_bias = "position_bias" in signature(sdpa_attention_forward).parameters
    return Mask("position_bias") if kind == "sdpa" and takes_bias else None


def _projection(backbone: nn.Module) -> nn.Module:
    """The convolution whose output is the grid, behind DPT's hybrid embedding too."""
    paths = ("embeddings", "beit.embeddings")  # the latter in BEiT's backbone
    embeddings = next(m for path, m in backbone.named_modules() if path in paths)
    owner = getattr(embeddings, "patch_embeddings", embeddings)
    projection: Any = getattr(owner, "projection", owner)
    assert isinstance(projection, nn.Module)
    return projection


def usual_grid(config: Any) -> tuple[int, int]:
    """The grid at the size of image that a configuration says."""
    (height, width), (rows, columns) = pair(config.image_size), pair(config.patch_size)
    return height // rows, width // columns


def refuse_attentions(model: nn.Module) -> NoReturn:
    """Say that attention among tokens is not there to be shown."""
    raise ExpediteError(
        f"output_attentions=True was asked of a transformers {own_class(model).__name__} whose "
        "blocks run on clusters; unpatch it to see attention among tokens"
    )


def pair(side: Any) -> tuple[int, int]:
    """Height and width, of which configurations say one or both."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def _first_norm(block: nn.Module, tokens: Tensor) -> Tensor:
    return apply_child(block, tokens, _BLOCKS[own_class(block).__name__][0])


def swap(cos_and_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Sines and cosines of cosines and sines."""
    cos, sin = cos_and_sin
    return sin, cos


def join(sin: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `swap`."""
    return cos, sin


def _readout(model: nn.Module) -> Readout:
    return _READOUTS.get(own_class(model).__name__, "tokens")


def _reads(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], attention: str
) -> Reads:
    """Which outputs of blocks the model reads itself, and which its caller asked for.

    `attention` is what the model was patched with: the way masks get into it depends on that.
    """
    config, backbone = attribute(model, "config"), _backbone(model)
    assert backbone is not None  # or the model would be no host
    check_attention(model, backbone, attention)
    own_config = attribute(backbone, "config")
    depth: int = own_config.num_hidden_layers
    states = requested_states(asked_for("output_hidden_states", model, args, kwargs), depth)
    if own_class(backbone).__name__.endswith("Backbone"):
        names = attribute(backbone, "stage_names")
        states |= {names.index(name) for name in attribute(backbone, "out_features")}
    elif own_class(model).__name__ in ("DPTForDepthEstimation", "DPTForSemanticSegmentation"):
        # A hybrid's first two come from its convolutions.
        indices = config.backbone_out_indices[2 if config.is_hybrid else 0 :]
        states |= {1 + index for index in indices}
    elif own_class(model).__name__ in huggingface_beit.SEGMENTERS:
        states |= huggingface_beit.head_states(config, depth)
    # The first hidden state is what the first block is called with, the full grid in any case.
    taps = frozenset(state - 1 for state in states if state > 0)
    return Reads(taps, last=_readout(model) == "tokens")


def asked_for(name: str, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a call asks for by keyword or position, or else the model's configuration."""
    asked = kwargs.get(name)
    if len(args) > 1:  # behind the images, where nobody counts places in every call
        asked = signature(model.forward).bind_partial(*args).arguments.get(name, asked)
    return getattr(attribute(model, "config"), name) if asked is None else asked


def requested_states(wanted: Any, depth: int) -> set[int]:
    """Indices of the hidden states that `output_hidden_states` asks for; 0 enters block 0."""
    if not wanted:
        return set()
    count = depth + 1
    if isinstance(wanted, bool):
        return set(range(count))
    indices = [wanted] if isinstance(wanted, int) else wanted
    return {index % count for index in indices if -count <= index < count}
