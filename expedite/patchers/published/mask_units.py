"""Hiera as it was published first, timm's and transformers': tokens in the order of mask units.

Its first stages attend within units of a map, the others everywhere. The block that leads from one
stage to the next pools queries, and runs on all tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.operators.windows import as_map
from expedite.patchers.published.hiera import read_intermediates
from expedite.patchers.transformers.vit import asked_for, check_version, refuse_attentions
from expedite.patching.host import (
    Cells,
    Host,
    Method,
    Reads,
    Stage,
    apply_child,
    attribute,
    every_token,
    inner,
    kind_of,
    map_grid,
    nothing_more,
    runs_as,
)
from expedite.patching.windows.window_blocks import Layout, nowhere, run_block

Size = tuple[int, int]


@dataclass(frozen=True)
class _Library:
    """What differs between the two."""

    family: str
    layout: Layout
    blocks: Callable[[nn.Module], list[nn.Module]]
    projection: str
    widths: tuple[str, str]  # what a block calls those that it takes and puts out
    stride: str  # what an attention calls how many queries it pools to one
    sizes: Callable[[nn.Module], tuple[Sequence[int], Sequence[int], Sequence[int]]]
    result: Callable[[Tensor], Any]
    taps: str
    reads: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Reads] = nothing_more
    methods: tuple[Method, ...] = ()


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a Hiera in the order of mask units; None where it is something else."""
    _refuse_backbone(module)
    name = kind_of(module, _LIBRARIES)
    if name is None or not runs_as(module, name.partition(".")[0], "forward"):
        return None
    if name.startswith("transformers."):
        check_version()
    library, of = _LIBRARIES[name], name.partition(".")[0]
    blocks = tuple(inner(block, of) for block in library.blocks(module))
    grid, unit, stride = (_pair(library.family, size) for size in library.sizes(module))
    stages = _stages(library, blocks, grid, unit, stride)
    return Host(
        family=library.family,
        model=module,
        backbone=module,
        blocks=blocks,
        prefix_tokens=0,
        embedding=module.get_submodule(library.projection),
        grid=map_grid,
        usual_grid=grid,
        any_size=False,
        first_norm=partial(apply_child, name=library.layout.first_norm),
        mask=None,
        readout=every_token,
        reads=library.reads,
        methods=library.methods,
        taps=library.taps,
        window=max(stages, key=lambda stage: stage.depth).window,
        run=partial(_run, library=library),
        stages=stages,
        moves=True,  # nothing in its blocks says where a token stands
    )


def _refuse_backbone(module: nn.Module) -> None:
    if kind_of(module, ("transformers.models.hiera.modeling_hiera.HieraBackbone",)):
        raise ExpediteError(
            "a HieraBackbone of transformers was found, which hands its blocks tokens row by row "
            "and reads them as if they stood in the order of mask units; a HieraModel can be "
            "patched"
        )


def _pair(family: str, size: Sequence[int]) -> Size:
    if len(size) != 2:
        raise ExpediteError(
            f"a {family} of {len(size)} dimensions was found; one for images can be patched"
        )
    return size[0], size[1]


def _stages(
    library: _Library, blocks: Sequence[nn.Module], grid: Size, unit: Size, stride: Size
) -> tuple[Stage, ...]:
    """Blocks on maps of one size and width, and each block between two of these as one more."""
    is_between = [
        attribute(block, library.widths[0]) != attribute(block, library.widths[1])
        for block in blocks
    ]
    found: list[Stage] = []
    steps, pooled = sum(is_between), 0  # tokens are dealt out once for every two stages
    for block, between in zip(blocks, is_between, strict=True):
        scale = stride[0] ** pooled
        of_unit = unit if library.layout.in_windows(block) else grid
        window = of_unit[0] // scale, of_unit[1] // scale
        dealt = (steps - pooled, *stride)
        if between:
            found.append(Stage(1, window, scale, is_whole=True, dealt=dealt))
            pooled += attribute(block.get_submodule("attn"), library.stride) > 1
        elif found and not found[-1].is_whole:
            found[-1] = replace(found[-1], depth=found[-1].depth + 1)
        else:
            found.append(Stage(1, window, scale, dealt=dealt))
    return tuple(found)


def _run(
    block: nn.Module, x: Tensor, cells: Cells, keywords: dict[str, Any], library: _Library
) -> Any:
    """What a block returns for clusters (B, h·w, C), which come row by row."""
    short = as_map(x, cells.clusters)
    return library.result(run_block(block, short, cells, keywords, library.layout).flatten(1, 2))


def _has_units(block: nn.Module) -> bool:
    return bool(attribute(block.get_submodule("attn"), "use_mask_unit_attn"))


def _blocks_of_timm(model: nn.Module) -> list[nn.Module]:
    return list(model.get_submodule("blocks").children())


def _blocks_of_transformers(model: nn.Module) -> list[nn.Module]:
    stages = model.get_submodule("encoder.stages").children()
    return [block for stage in stages for block in stage.get_submodule("layers").children()]


def _sizes_of_timm(model: nn.Module) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    grid, units = attribute(model, "tokens_spatial_shape"), attribute(model, "mask_spatial_shape")
    unit = [tokens // count for tokens, count in zip(grid, units, strict=True)]
    schedule = attribute(model.get_submodule("unroll"), "schedule")
    return grid, unit, schedule[0] if schedule else unit


def _sizes_of_transformers(model: nn.Module) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    config = attribute(model, "config")
    grid = [side // by for side, by in zip(config.image_size, config.patch_stride, strict=True)]
    return grid, config.masked_unit_size, config.query_stride


def _refuses_attentions(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    """Hidden states are those of stages, behind every span."""
    if asked_for("output_attentions", model, args, kwargs):
        refuse_attentions(model)
    return Reads()


def _intermediates(model: nn.Module, x: Any, mask: Any = None, *args: Any, **kwargs: Any) -> Reads:
    return read_intermediates(model, x, *args, **kwargs)


def _itself(x: Tensor) -> Tensor:
    return x


def _without_attentions(x: Tensor) -> tuple[Tensor, None]:
    return x, None


_OF_TIMM = Layout(
    first_norm="norm1",
    heads="heads",
    place=nowhere,
    after_attention=("attn.proj",),
    joined=("ls1", "drop_path1"),
    after_windows=("norm2", "mlp", "ls2", "drop_path2"),
    in_windows=_has_units,
)
_LIBRARIES = {
    "timm.models.hiera.Hiera": _Library(
        family="timm Hiera",
        layout=_OF_TIMM,
        blocks=_blocks_of_timm,
        projection="patch_embed.proj",
        widths=("dim", "dim_out"),
        stride="q_stride",
        sizes=_sizes_of_timm,
        result=_itself,
        taps="read through forward_intermediates",
        methods=(
            Method("forward_features", nothing_more),
            Method("forward_intermediates", _intermediates),
        ),
    ),
    "transformers.models.hiera.modeling_hiera.HieraModel": _Library(
        family="transformers HieraModel",
        layout=replace(
            _OF_TIMM,
            first_norm="layernorm_before",
            heads="num_heads",
            joined=("drop_path",),
            after_windows=("layernorm_after", "mlp", "drop_path"),
        ),
        blocks=_blocks_of_transformers,
        projection="embeddings.patch_embeddings.projection",
        widths=("hidden_size", "hidden_size_output"),
        stride="query_stride",
        sizes=_sizes_of_transformers,
        result=_without_attentions,
        reads=_refuses_attentions,
        taps="none",
    ),
}
