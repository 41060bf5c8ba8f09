"""timm's PiT and CrossViT: rows of plain blocks with something between them that reads all tokens.

PiT pools the map between its stages. In CrossViT the class tokens of two branches meet between rows
of blocks; the branch with more blocks is the host.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from expedite.patching.host import (
    Host,
    Mask,
    Method,
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

Size = tuple[int, int]
Rows = list[list[nn.Module]]


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a PiT or CrossViT of timm; None where it is something else."""
    name = kind_of(module, _KINDS)
    if name is None or not runs_as(module, "timm.", "forward", "forward_features"):
        return None
    embedding, rows, usual_grid, step = _KINDS[name](module)
    scales = [step**number for number in range(len(rows))]
    return Host(
        family=f"timm {name.rpartition('.')[2]}",
        model=module,
        backbone=module,
        blocks=tuple(inner(block, "timm.") for row in rows for block in row),
        prefix_tokens=getattr(module, "num_tokens", 1),
        embedding=embedding,
        grid=map_grid,
        usual_grid=usual_grid,
        any_size=False,
        first_norm=partial(apply_child, name="norm1"),
        mask=Mask("attn_mask", position=1),
        readout=every_token,
        # What is read stands behind rows, where the full grid is back in any case.
        methods=tuple(Method(method, nothing_more) for method in _METHODS),
        taps="outputs of rows of blocks, of the full map in any case",
        stages=tuple(Stage(len(row), None, scale) for row, scale in zip(rows, scales, strict=True)),
    )


def _of_pit(model: nn.Module) -> tuple[nn.Module, Rows, Size, int]:
    stages = model.get_submodule("transformers").children()
    rows = [list(stage.get_submodule("blocks").children()) for stage in stages]
    embedding = model.get_submodule("patch_embed")
    return embedding, rows, attribute(embedding, "grid_size"), 2


def _of_cross_vit(model: nn.Module) -> tuple[nn.Module, Rows, Size, int]:
    joints = list(model.get_submodule("blocks").children())
    branches = [
        [list(branch.children()) for branch in joint.get_submodule("blocks").children()]
        for joint in joints
    ]
    longest = max(range(len(branches[0])), key=lambda i: sum(len(joint[i]) for joint in branches))
    embedding = list(model.get_submodule("patch_embed").children())[longest]
    (height, width), patch = attribute(embedding, "img_size"), attribute(embedding, "patch_size")
    grid = height // patch[0], width // patch[1]
    return embedding.get_submodule("proj"), [joint[longest] for joint in branches], grid, 1


_METHODS = ("forward_features", "forward_intermediates")
_KINDS: dict[str, Callable[[nn.Module], tuple[nn.Module, Rows, Size, int]]] = {
    "timm.models.crossvit.CrossVit": _of_cross_vit,
    "timm.models.pit.PoolingVisionTransformer": _of_pit,
}
