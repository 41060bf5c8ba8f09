"""Depth Anything 3's ViT: a DINOv2 whose later blocks attend to all views of a scene in turn.

One of a single view attends within it throughout.
"""

from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor, nn

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
    Method,
    Reads,
    Views,
    apply_child,
    attribute,
    every_token,
    map_grid,
    nothing_more,
)

_ARGUMENTS = {"self", "x", "n", "export_feat_layers", "kwargs"}


def find_host(module: nn.Module) -> Host | None:
    """See `module` as Depth Anything 3's ViT; None where it is something else."""
    children = dict(module.named_children())
    if not {"patch_embed", "blocks", "norm"} <= children.keys() or not hasattr(module, "alt_start"):
        return None
    method = getattr(type(module), "get_intermediate_layers", None)
    if method is None or set(signature(method).parameters) != _ARGUMENTS:
        return None
    blocks = tuple(children["blocks"].children())
    if not are_known(blocks):
        return None
    views = _views(module, blocks)
    return Host(
        family="Depth Anything 3" if views else "Depth Anything 3 of one view",
        model=module,
        backbone=module,
        blocks=blocks,
        prefix_tokens=1 + int(attribute(module, "num_register_tokens")),
        embedding=children["patch_embed"].get_submodule("proj"),
        grid=map_grid,
        usual_grid=attribute(children["patch_embed"], "patches_resolution"),
        any_size=True,
        first_norm=partial(apply_child, name="norm1"),
        mask=None,
        attention=Attention(attention_of, attend),
        readout=every_token,
        reads=nothing_more,
        methods=(Method("get_intermediate_layers", _intermediates),),
        taps="read through get_intermediate_layers",
        views=views,
    )


def _views(model: nn.Module, blocks: tuple[nn.Module, ...]) -> Views | None:
    start: int = attribute(model, "alt_start")
    if start < 0:
        return None
    joint = frozenset(index for index in range(start, len(blocks)) if index % 2 == 1)
    # Before `start` views change their order, and the class token is exchanged.
    return Views(partial(layout, images="x"), joint, "pos", the_rope(blocks), turn, first=start)


def _intermediates(
    model: nn.Module, x: Tensor, n: Any = 1, export_feat_layers: Any = (), **kwargs: Any
) -> Reads:
    blocks = tuple(model.get_submodule("blocks").children())
    taken = range(len(blocks) - n, len(blocks)) if isinstance(n, int) else n
    views = _views(model, blocks)
    # Beside an output of all views stands that of the block before it, within each.
    beside = [index - 1 for index in taken if views is not None and index in views.joint]
    return Reads(frozenset([*taken, *beside, *export_feat_layers]), last=False)
