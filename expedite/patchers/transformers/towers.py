"""Vision towers of transformers: CLIP, SigLIP, AIMv2, I-JEPA, ViTPose, OWL-ViT and their like.

A tower is the innermost model of the library that holds both the convolution that makes patches
and the blocks. Whoever calls it, be it a detector or a language model, gets the full grid. Of its
parts only the class of its blocks is known by name: that all tokens attend to all others there.
The norms, tokens beside the grid and ways of taking a mask are found by looking.
"""

from collections.abc import Iterator
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.patchers.transformers.rotary_attention import attend
from expedite.patchers.transformers.tower_calls import (
    check_order,
    grid_of_call,
    patch_of,
    usual_grid,
    windows_of,
)
from expedite.patchers.transformers.vit import (
    asked_for,
    check_attention,
    check_version,
    is_of_transformers,
    join,
    requested_states,
    swap,
)
from expedite.patching.heads import dropout_rate, heads_of_one
from expedite.patching.host import (
    Attention,
    Host,
    Mask,
    Queries,
    Readout,
    Reads,
    Rotary,
    apply_child,
    attribute,
    class_names,
    own_class,
)

# Blocks that map (B, N, C) to the same, by attention of all tokens to all others.
_BLOCKS = {
    "AltCLIPEncoderLayer",
    "Aimv2EncoderLayer",
    "Blip2EncoderLayer",
    "BlipEncoderLayer",
    "CLIPEncoderLayer",
    "CLIPSegEncoderLayer",
    "ChineseCLIPVisionLayer",
    "EomtDinov3Layer",
    "EomtLayer",
    "GitVisionEncoderLayer",
    "IJepaLayer",
    "Idefics2EncoderLayer",
    "Idefics3EncoderLayer",
    "InstructBlipEncoderLayer",
    "InternVLVisionLayer",
    "JanusVisionEncoderLayer",
    "Kosmos2VisionEncoderLayer",
    "LwDetrViTLayer",
    "MLCDEncoderLayer",
    "MetaClip2EncoderLayer",
    "Ovis2VisionEncoderLayer",
    "Owlv2EncoderLayer",
    "OwlViTEncoderLayer",
    "PixioLayer",
    "RadioLayer",
    "RfDetrDinov2Layer",
    "Sapiens2Layer",
    "Siglip2EncoderLayer",
    "SiglipEncoderLayer",
    "SmolVLMEncoderLayer",
    "Tipsv2VisionLayer",
    "ViTMAELayer",
    "ViTMSNLayer",
    "VitPoseBackboneLayer",
    "YolosLayer",
}
# Learned tokens beside the grid.
_BEFORE = {
    "class_embedding",
    "class_token",
    "cls_register_token",
    "cls_token",
    "distillation_token",
    "register_tokens",
}
_BEHIND = {"detection_tokens"}
# Projections of patches that are cut before.
_LINEAR = ("patch_projection", "patch_embedding")


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a vision tower of transformers; None where it is something else."""
    if not _is_model(module):
        return None
    tower = _tower(module)
    if tower is None:
        return None
    check_version()
    blocks, config = tuple(_blocks(tower)), attribute(tower, "config")
    mask, attention = _mask(config, blocks[0])
    windows = windows_of(config)
    rows, columns = usual_grid(config)
    return Host(
        family=f"transformers {own_class(module).__name__}",
        model=module,
        backbone=tower,
        blocks=blocks,
        prefix_tokens=(prefix := _count(tower, _BEFORE)),
        suffix_tokens=_count(tower, _BEHIND),
        embedding=tower.get_submodule(_projection_path(tower)),
        grid=partial(grid_of_call, patch=patch_of(config), windows=windows),
        usual_grid=(rows // windows, columns // windows),
        any_size=True,
        first_norm=partial(apply_child, name=_first_norm(blocks[0])),
        mask=mask,
        attention=attention,
        rotary=_rotary(blocks[0], prefix),
        readout=_readout,
        reads=partial(_reads, attention=config._attn_implementation),
        taps="hidden states and feature maps, where a call reads them",
        queries=_queries(tower, config),
        adds_between=getattr(config, "use_mid_position_embeddings", False),
    )


def _is_model(module: nn.Module) -> bool:
    """Whether a module is a model of the library, and not a part of one."""
    names = class_names(module)
    return "transformers.modeling_utils.PreTrainedModel" in names and is_of_transformers(module)


def _tower(module: nn.Module) -> nn.Module | None:
    """The tower that a module is, or whose feature maps it hands on."""
    holders = [model for model in module.modules() if _is_model(model) and _holds_both(model)]
    if not holders or (len(holders) > 1 and not hasattr(module, "out_features")):
        return None
    return holders[-1]


def _holds_both(model: nn.Module) -> bool:
    return any(True for _ in _blocks(model)) and _projection_path(model) != ""


def _blocks(tower: nn.Module) -> Iterator[nn.Module]:
    """The blocks in a tower, but not those of a model in it that reads words, as SAM 3's does."""
    if _is_model(tower) and _reads_words(tower):
        return
    if _kinds(tower) & _BLOCKS and is_of_transformers(tower):
        yield tower
    for child in tower.children():
        yield from _blocks(child)


def _reads_words(model: nn.Module) -> bool:
    has_table = any(isinstance(module, nn.Embedding) for module in model.modules())
    return has_table and not _projection_path(model)


def _kinds(module: nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(module).__mro__}


def _projection_path(tower: nn.Module) -> str:
    """Where patches are made of an image: the first convolution whose kernels touch; or "".

    RADIO cuts images into patches before it projects them, SigLIP 2 gets patches: there the module
    that the projection is in.
    """
    path: str
    for path, module in tower.named_modules():
        if isinstance(module, nn.Conv2d) and module.stride == module.kernel_size != (1, 1):
            return path
        if path.endswith(_LINEAR) and isinstance(module, nn.Linear):
            return path.rpartition(".")[0]
    return ""


def _count(tower: nn.Module, names: set[str]) -> int:
    """How many learned tokens of these names join the patches, each of the width of blocks."""
    width: int = attribute(tower, "config").hidden_size
    embedding = _projection_path(tower).partition(".")[0]
    return sum(
        tokens.numel() // width
        for name, tokens in tower.get_submodule(embedding).named_parameters()
        if name.rpartition(".")[2] in names
    )


def _first_norm(block: nn.Module) -> str:
    """The name of a block's first norm, in the order in which its parts were made."""
    return next(
        name for name, part in block.named_children() if "norm" in type(part).__name__.lower()
    )


def _queries(tower: nn.Module, config: Any) -> Queries | None:
    if not hasattr(tower, "attn_mask_probs"):
        return None
    return Queries(config.num_hidden_layers - config.num_blocks, config.num_queries, masked=True)


def _mask(config: Any, block: nn.Module) -> tuple[Mask | None, Attention | None]:
    """How a block's attention takes a mask of floats, or is done under one."""
    if _is_of_blip(attention := _attention(block)):
        return None, Attention(_attention, _attend)
    if _is_of_mlcd(block):
        return None, Attention(_attention, attend)
    if config._attn_implementation not in ("sdpa", "eager"):
        return None, None
    # Blocks with windows put those of an image behind one another only to attend.
    if windows_of(config) == 1 and (position := _position(block)) is not None:
        return Mask("attention_mask", position, made_for_exports=True), None
    if (position := _position(attention)) is not None:
        return Mask("attention_mask", position, module=_attention), None
    return _of_fused(config), None


def _of_fused(config: Any) -> Mask | None:
    """The bias that fused attention takes beside a mask, for parts that hand it what they get."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    takes_bias = "position_bias" in signature(sdpa_attention_forward).parameters
    is_fused = config._attn_implementation == "sdpa"
    return Mask("position_bias", None, module=_attention) if is_fused and takes_bias else None


def _rotary(block: nn.Module, prefix: int) -> Rotary:
    """How blocks take rotary positions, of MLCD's class token too."""
    position = _position(block, "position_embeddings")
    return Rotary(
        "position_embeddings", swap, join, position, prefix=prefix if _is_of_mlcd(block) else 0
    )


def _is_of_mlcd(block: nn.Module) -> bool:
    return "MLCDEncoderLayer" in _kinds(block)


def _position(module: nn.Module, name: str = "attention_mask") -> int | None:
    """Where a module takes an argument among positional ones; None if it does not."""
    parameters = list(signature(type(module).forward).parameters.values())[1:]
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.POSITIONAL_ONLY)
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    return names.index(name) if name in names else None


def _attention(block: nn.Module) -> nn.Module:
    """The child that attends."""
    return next(part for part in block.children() if "Attention" in type(part).__name__)


def _is_of_blip(attention: nn.Module) -> bool:
    return set(dict(attention.named_children())) == {"dropout", "qkv", "projection"}


def _attend(
    attention: nn.Module, mask: Tensor, hidden_states: Tensor, **kwargs: Any
) -> tuple[Tensor, None]:
    """What BLIP's attention, which is not fused and takes no mask, puts out under one."""
    q, k, v = heads_of_one(attention, hidden_states)
    dropout = dropout_rate(attention, "dropout")
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout).transpose(1, 2).flatten(2)
    return apply_child(attention, out, "projection"), None


def _readout(model: nn.Module) -> Readout:
    return "taps" if hasattr(model, "out_features") else "tokens"


def _reads(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], attention: str
) -> Reads:
    """Which outputs of blocks the model reads itself, and which its caller asked for."""
    config = attribute(model, "config")
    check_attention(model, model, attention)
    check_order(model, config, args, kwargs)
    states = requested_states(wanted_states(model, args, kwargs), config.num_hidden_layers)
    if hasattr(model, "out_features"):
        names = attribute(model, "stage_names")
        states |= {names.index(name) for name in attribute(model, "out_features")}
    states |= _masked_states(model, config)
    # The first hidden state is what the first block is called with, the full grid in any case.
    taps = frozenset(state - 1 for state in states if state > 0)
    return Reads(taps, last=_readout(model) == "tokens")


def wanted_states(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Which hidden states a call is to return, or a model around the tower records."""
    from transformers.utils import output_capturing

    wanted = asked_for("output_hidden_states", model, args, kwargs)
    collector: Any = output_capturing._active_collector
    # What the library keeps while it is compiled, when it cannot ask for the other.
    recording = collector.global_var if torch.compiler.is_compiling() else collector.get()
    return wanted or (recording is not None and "hidden_states" in recording)


def _masked_states(model: nn.Module, config: Any) -> set[int]:
    """States from which EoMT makes masks for the queries in its last blocks."""
    if not hasattr(model, "attn_mask_probs"):
        return set()
    first = config.num_hidden_layers - config.num_blocks
    if torch.compiler.is_compiling():  # a look at the shares would break the graph
        return set(range(first, config.num_hidden_layers))
    shares = attribute(model, "attn_mask_probs").tolist()
    return {first + i for i, share in enumerate(shares) if model.training or share > 0}
