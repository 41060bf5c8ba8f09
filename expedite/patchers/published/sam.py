"""The image encoder of Segment Anything, from segment_anything, timm and transformers; SAM-HQ's.

Copies of the first, as ultralytics', are found by their name and what their blocks are made of.
Blocks take and return maps (B, H, W, C). Most attend in windows, some everywhere, and all have
decomposed relative positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from expedite.errors import ExpediteError
from expedite.patchers.timm.methods import methods
from expedite.patchers.transformers.vit import asked_for, refuse_attentions, requested_states
from expedite.patching.host import (
    Host,
    Method,
    Reads,
    apply_child,
    attribute,
    every_token,
    inner,
    kind_or_copy,
    map_of_tokens,
    nothing_more,
    runs_as,
)
from expedite.patching.windows.window_blocks import Layout, run_block


@dataclass(frozen=True)
class _Library:
    """What differs between the three."""

    family: str
    blocks: str
    layout: Layout
    usual_grid: Callable[[nn.Module], tuple[int, int]]
    any_size: Callable[[nn.Module], bool]
    taps: str
    reads: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Reads] = nothing_more
    methods: tuple[Method, ...] = ()


def find_host(module: nn.Module) -> Host | None:
    """See `module` as an image encoder of Segment Anything; None where it is something else."""
    found = kind_or_copy(module, _LIBRARIES, _PUBLISHED if _is_copy(module) else None)
    if found is None or not runs_as(module, found[1], "forward"):
        return None
    name, of = found
    if name == _PUBLISHED and not _runs_blocks_alone(module):
        return None
    library = _LIBRARIES[name]
    blocks = tuple(inner(block, of) for block in module.get_submodule(library.blocks).children())
    return Host(
        family=f"{of} ImageEncoderViT" if name == _PUBLISHED else library.family,
        model=module,
        backbone=module,
        blocks=blocks,
        prefix_tokens=0,
        embedding=module.get_submodule("patch_embed"),
        grid=map_of_tokens,
        usual_grid=library.usual_grid(module),
        any_size=library.any_size(module),
        first_norm=partial(apply_child, name=library.layout.first_norm),
        mask=None,
        readout=every_token,
        reads=library.reads,
        methods=library.methods,
        taps=library.taps,
        window=_window(library.family, blocks),
        run=partial(run_block, layout=library.layout),
    )


def _is_copy(module: nn.Module) -> bool:
    """Whether it is called as the published encoder and has blocks made of the same parts."""
    if type(module).__name__ != _PUBLISHED.rpartition(".")[2] or not hasattr(module, "blocks"):
        return False
    blocks = list(module.get_submodule("blocks").children())
    return all(set(dict(block.named_children())) == _PARTS for block in blocks)


def _runs_blocks_alone(encoder: nn.Module) -> bool:
    """Whether it hands on nothing but its last output: HQ-SAM's fork stands under the same name."""
    return set(type(encoder).forward.__code__.co_varnames) <= {"self", "x", "blk", "pos_embed"}


def _window(family: str, blocks: tuple[nn.Module, ...]) -> tuple[int, int]:
    sides = sorted({attribute(block, "window_size") for block in blocks} - {0})
    if len(sides) != 1:
        raise ExpediteError(
            f"{len(sides)} sizes of windows were found among the blocks of the {family}; an "
            "encoder with exactly one can be patched"
        )
    if not all(hasattr(block.get_submodule("attn"), "rel_pos_h") for block in blocks):
        raise ExpediteError(
            f"the {family} has blocks without decomposed relative positions; an encoder with them, "
            "as all published ones are, can be patched"
        )
    return sides[0], sides[0]


def _reads_states(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    config = attribute(model, "config")
    # Where attention is fused, nothing is recorded in any case.
    is_shown = "Sdpa" not in type(model.get_submodule("layers.0.attn")).__name__
    if is_shown and asked_for("output_attentions", model, args, kwargs):
        refuse_attentions(model)
    wanted = asked_for("output_hidden_states", model, args, kwargs)
    states = requested_states(wanted, config.num_hidden_layers)
    return Reads(frozenset(state - 1 for state in states if state > 0))


def _reads_of_hq(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    """SAM-HQ hands on what its blocks without windows put out, too."""
    blocks = list(model.get_submodule("layers").children())
    plain = {i for i, block in enumerate(blocks) if attribute(block, "window_size") == 0}
    return Reads(_reads_states(model, args, kwargs).taps | plain)


def _square_grid(model: nn.Module) -> tuple[int, int]:
    projection = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    image = attribute(model, "img_size" if hasattr(model, "img_size") else "image_size")
    return image // projection.stride[0], image // projection.stride[1]


def _grid_of_timm(model: nn.Module) -> tuple[int, int]:
    rows, columns = attribute(model.get_submodule("patch_embed"), "grid_size")
    return rows, columns


def _has_any_size(model: nn.Module) -> bool:
    """Whether it adds no positions, or stretches them to the map's size as ultralytics' copy."""
    stretches = "pos_embed" in type(model).forward.__code__.co_varnames
    return stretches or attribute(model, "pos_embed") is None


def _is_not_strict(model: nn.Module) -> bool:
    return not attribute(model.get_submodule("patch_embed"), "strict_img_size")


def _never(model: nn.Module) -> bool:
    return False


_PUBLISHED = "segment_anything.modeling.image_encoder.ImageEncoderViT"
_PARTS = {"norm1", "attn", "norm2", "mlp"}
_OF_TRANSFORMERS = Layout(
    first_norm="layer_norm1",
    heads="num_attention_heads",
    dropout="dropout",
    after_attention=("attn.proj",),
    after_windows=("layer_norm2", "mlp"),
)
_LIBRARIES = {
    _PUBLISHED: _Library(
        family="segment_anything ImageEncoderViT",
        blocks="blocks",
        layout=Layout(
            first_norm="norm1",
            heads="num_heads",
            after_attention=("attn.proj",),
            after_windows=("norm2", "mlp"),
        ),
        usual_grid=_square_grid,
        any_size=_has_any_size,
        taps="none",
    ),
    "timm.models.vision_transformer_sam.VisionTransformerSAM": _Library(
        family="timm VisionTransformerSAM",
        blocks="blocks",
        layout=Layout(
            first_norm="norm1",
            heads="num_heads",
            query=("q_norm",),
            key=("k_norm",),
            dropout="attn_drop",
            after_attention=("attn.proj", "attn.proj_drop", "ls1", "drop_path1"),
            after_windows=("norm2", "mlp", "ls2", "drop_path2"),
        ),
        usual_grid=_grid_of_timm,
        any_size=_is_not_strict,
        taps="read through forward_intermediates",
        methods=methods(),
    ),
    "transformers.models.sam.modeling_sam.SamVisionEncoder": _Library(
        family="transformers SamVisionEncoder",
        blocks="layers",
        layout=_OF_TRANSFORMERS,
        usual_grid=_square_grid,
        any_size=_never,
        reads=_reads_states,
        taps="hidden states, where a call reads them",
    ),
    "transformers.models.sam_hq.modeling_sam_hq.SamHQVisionEncoder": _Library(
        family="transformers SamHQVisionEncoder",
        blocks="layers",
        layout=_OF_TRANSFORMERS,
        usual_grid=_square_grid,
        any_size=_never,
        reads=_reads_of_hq,
        taps="blocks without windows, and hidden states where a call reads them",
    ),
}
