"""VGGT's aggregator: blocks within each frame and blocks among all frames of a scene in turn.

Found by its structure, so that copies of it are too; the head reads outputs of both kinds, side by
side. Its patches come from a DINOv2, a host of its own, which can be patched after it.
"""

from functools import partial
from inspect import signature
from itertools import chain, repeat
from typing import Any

from torch import nn

from expedite.patchers.published.alternating import (
    are_known,
    attend,
    attention_of,
    layout,
    the_rope,
    turn,
)
from expedite.patching.host import (
    Attention,
    Host,
    Reads,
    Views,
    apply_child,
    attribute,
    every_token,
    map_grid,
)

_ARGUMENTS = {
    "forward": {"self", "images"},
    "_process_frame_attention": {"self", "tokens", "B", "S", "P", "C", "frame_idx", "pos"},
    "_process_global_attention": {"self", "tokens", "B", "S", "P", "C", "global_idx", "pos"},
}


def find_host(module: nn.Module) -> Host | None:
    """See `module` as VGGT's aggregator; None where it is something else."""
    children = dict(module.named_children())
    if not {"patch_embed", "frame_blocks", "global_blocks"} <= children.keys():
        return None
    if not _is_called_alike(module):
        return None
    blocks, joint = _in_turn(module)
    patches = _patches(children["patch_embed"])
    if patches is None or not are_known(blocks):
        return None
    return Host(
        family="VGGT",
        model=module,
        backbone=module,
        blocks=blocks,
        prefix_tokens=attribute(module, "patch_start_idx"),
        embedding=patches.get_submodule("proj"),
        grid=map_grid,
        usual_grid=attribute(patches, "patches_resolution"),
        any_size=True,
        first_norm=partial(apply_child, name="norm1"),
        mask=None,
        attention=Attention(attention_of, attend),
        readout=every_token,
        reads=_reads,
        taps="every block's output, side by side for the heads",
        views=Views(partial(layout, images="images"), joint, "pos", the_rope(blocks), turn),
    )


def _is_called_alike(module: nn.Module) -> bool:
    """Whether its methods have the arguments of the published model's and no others."""
    methods = {name: getattr(type(module), name, None) for name in _ARGUMENTS}
    return all(
        method is not None and set(signature(method).parameters) == _ARGUMENTS[name]
        for name, method in methods.items()
    )


def _in_turn(aggregator: nn.Module) -> tuple[tuple[nn.Module, ...], frozenset[int]]:
    """Its blocks in the order they run, and which of them attend to all frames."""
    size: int = attribute(aggregator, "aa_block_size")
    kinds = {
        "frame": iter(aggregator.get_submodule("frame_blocks").children()),
        "global": iter(aggregator.get_submodule("global_blocks").children()),
    }
    turns: int = attribute(aggregator, "aa_block_num")
    order = list(chain.from_iterable(repeat(k, size) for k in attribute(aggregator, "aa_order")))
    ran = order * turns
    joint = frozenset(index for index, kind in enumerate(ran) if kind == "global")
    return tuple(next(kinds[kind]) for kind in ran), joint


def _patches(embedding: nn.Module) -> nn.Module | None:
    """What makes patches, alone or in a ViT."""
    inside = dict(embedding.named_children())
    patches = inside.get("patch_embed", embedding)
    return patches if "proj" in dict(patches.named_children()) else None


def _reads(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    return Reads(frozenset(range(len(_in_turn(model)[0]))))
