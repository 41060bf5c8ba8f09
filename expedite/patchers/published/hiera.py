"""SAM 2's image encoder, a Hiera whose blocks take maps: transformers', timm's and as published.

Stages of several widths and windows; some blocks attend everywhere. The block that leads from one
stage to the next pools queries, and runs on all tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from expedite.errors import ExpediteError
from expedite.patchers.timm.methods import every_block, intermediates
from expedite.patchers.transformers.vit import (
    asked_for,
    check_version,
    pair,
    refuse_attentions,
    requested_states,
)
from expedite.patching.host import (
    Host,
    Method,
    Reads,
    Stage,
    apply_child,
    attribute,
    every_token,
    inner,
    kind_or_copy,
    map_of_tokens,
    nothing_more,
    runs_as,
)
from expedite.patching.windows.window_blocks import Layout, nowhere, run_block

# The map of SAM 2 at 1024×1024, where a model does not say for what size it was made.
_USUAL_GRID = (256, 256)


@dataclass(frozen=True)
class _Library:
    """What differs between the three."""

    family: str
    layout: Layout
    stride: str  # what a block calls that of its queries
    windows: Callable[[nn.Module], Sequence[int]]  # of every stage
    usual_grid: Callable[[nn.Module], tuple[int, int]]
    taps: str
    reads: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Reads] = nothing_more
    methods: tuple[Method, ...] = ()


def find_host(module: nn.Module) -> Host | None:
    """See `module` as SAM 2's image encoder; None where it is something else."""
    found = kind_or_copy(module, _LIBRARIES, _PUBLISHED if _is_copy(module) else None)
    if found is None or not runs_as(module, found[1], "forward"):
        return None
    name, of = found
    if name.startswith("transformers."):
        check_version()
    library = _LIBRARIES[name]
    blocks = tuple(inner(block, of) for block in module.get_submodule("blocks").children())
    stages = _stages(library, blocks, library.windows(module))
    return Host(
        family=library.family,
        model=module,
        backbone=module,
        blocks=blocks,
        prefix_tokens=0,
        embedding=module.get_submodule("patch_embed"),
        grid=map_of_tokens,
        usual_grid=library.usual_grid(module),
        any_size=True,
        first_norm=partial(apply_child, name=library.layout.first_norm),
        mask=None,
        readout=every_token,
        reads=library.reads,
        methods=library.methods,
        taps=library.taps,
        window=max(stages, key=lambda stage: stage.depth).window,
        run=partial(run_block, layout=library.layout),
        stages=stages,
        moves=True,  # nothing in its blocks says where a token stands
    )


def _is_copy(module: nn.Module) -> bool:
    """Whether it is called as the published encoder, whose class others have copied."""
    return type(module).__name__ == _PUBLISHED.rpartition(".")[2] and hasattr(module, "window_spec")


def _stages(
    library: _Library, blocks: Sequence[nn.Module], windows: Sequence[int]
) -> tuple[Stage, ...]:
    """Blocks on maps of one size and width, and each block between two of these as one more."""
    if not all(windows):
        raise ExpediteError(
            f"a stage without windows was found in the {library.family}; an encoder with windows "
            "in every stage, as all published ones are, can be patched"
        )
    found: list[Stage] = []
    number, scale = 0, 1
    for block in blocks:
        window = (windows[number], windows[number])
        if attribute(block, "dim") != attribute(block, "dim_out"):
            found.append(Stage(1, window, scale, is_whole=True, rounds_up=False))
            number += 1
            stride = attribute(block, library.stride)
            scale *= stride[0] if stride else 1
        elif found and not found[-1].is_whole:
            found[-1] = replace(found[-1], depth=found[-1].depth + 1)
        else:
            found.append(Stage(1, window, scale, rounds_up=False))
    return tuple(found)


def _windows_of_spec(model: nn.Module) -> Sequence[int]:
    spec: Sequence[int] = attribute(model, "window_spec")
    return spec


def _windows_of_config(model: nn.Module) -> Sequence[int]:
    spec: Sequence[int] = attribute(model, "config").window_size_per_stage
    return spec


def _grid_of_config(model: nn.Module) -> tuple[int, int]:
    config = attribute(model, "config")
    (height, width), (down, across) = pair(config.image_size), pair(config.patch_stride)
    return height // down, width // across


def _grid_of_published(model: nn.Module) -> tuple[int, int]:
    return _USUAL_GRID


def _grid_of_timm(model: nn.Module) -> tuple[int, int]:
    made_for = getattr(model, "pretrained_cfg", None) or {}
    if "input_size" not in made_for:
        return _USUAL_GRID
    return made_for["input_size"][1] // 4, made_for["input_size"][2] // 4


def _reads_states(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    if asked_for("output_attentions", model, args, kwargs):
        refuse_attentions(model)
    wanted = asked_for("output_hidden_states", model, args, kwargs)
    states = requested_states(wanted, len(list(model.get_submodule("blocks").children())))
    return Reads(frozenset(state - 1 for state in states if state > 0))


def _ends(model: nn.Module) -> Sequence[int]:
    return [1 + end for end in attribute(model, "stage_ends")]


def read_intermediates(
    model: nn.Module,
    x: Any,
    indices: int | list[int] | None = None,
    norm: bool = False,
    stop_early: bool = True,
    output_fmt: str = "NCHW",
    intermediates_only: bool = False,
    coarse: bool = True,
) -> Reads:
    """What timm's `forward_intermediates` of a model with stages reads."""
    ends = _ends if coarse else every_block
    return intermediates(model, x, indices, intermediates_only=intermediates_only, ends=ends)


_PUBLISHED = "sam2.modeling.backbones.hieradet.Hiera"
_OF_TIMM = Layout(
    first_norm="norm1",
    heads="num_heads",
    place=nowhere,
    after_attention=("attn.proj",),
    joined=("ls1", "drop_path1"),
    after_windows=("norm2", "mlp", "ls2", "drop_path2"),
)
_LIBRARIES = {
    "transformers.models.sam2.modeling_sam2.Sam2HieraDetModel": _Library(
        family="transformers Sam2HieraDetModel",
        layout=Layout(
            first_norm="layer_norm1",
            heads="num_attention_heads",
            place=nowhere,
            after_attention=("attn.proj",),
            after_windows=("layer_norm2", "mlp"),
        ),
        stride="query_stride",
        windows=_windows_of_config,
        usual_grid=_grid_of_config,
        reads=_reads_states,
        taps="hidden states, where a call reads them",
    ),
    "timm.models.hieradet_sam2.HieraDet": _Library(
        family="timm HieraDet",
        layout=_OF_TIMM,
        stride="q_stride",
        windows=_windows_of_spec,
        usual_grid=_grid_of_timm,
        taps="read through forward_intermediates",
        methods=(
            Method("forward_features", nothing_more),
            Method("forward_intermediates", read_intermediates),
        ),
    ),
    _PUBLISHED: _Library(
        family="SAM 2's Hiera as published",
        layout=replace(
            _OF_TIMM, joined=("drop_path",), after_windows=("norm2", "mlp", "drop_path")
        ),
        stride="q_stride",
        windows=_windows_of_spec,
        usual_grid=_grid_of_published,
        taps="none",
    ),
}
