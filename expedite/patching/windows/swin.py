"""What Swin and SwinV2 have in common, whichever library they come from."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from expedite.patching.heads import Projections
from expedite.patching.host import Cells, Host, Stage, apply_child, attribute, every_token, kind_of
from expedite.patching.positions.bias import window_bias
from expedite.patching.positions.continuous import continuous_bias
from expedite.patching.windows.shifted_blocks import Layout, Size, run_block

Stages = list[tuple[nn.Module, ...]]


def make_host(
    model: nn.Module,
    stages: Stages,
    layout: Layout,
    windows: Iterable[Size],
    scales: Iterable[int] | None = None,
    **more: Any,
) -> Host:
    """A host of stages of blocks.

    Args:
        model: The whole.
        stages: Their blocks.
        layout: Of the blocks.
        windows: Rows and columns of the windows of every stage.
        scales: How many tokens of the embedding stand for one of every stage, along each side;
            None for a map half as large as the one before.
        more: Other fields of `Host`.
    """
    scales = scales or [2**number for number in range(len(stages))]
    depths = map(len, stages)
    attention = stages[0][0].get_submodule(layout.attention)
    found = [Stage(*stage) for stage in zip(depths, windows, scales, strict=True)]
    fields = {
        "backbone": model,
        "prefix_tokens": 0,
        # SwinV2's blocks have no norm before attention.
        "first_norm": partial(apply_child, name=layout.before[0]) if layout.before else _the_same,
        "mask": None,
        "readout": every_token,
        "run": partial(run_block, layout=layout),
        "window": max(found, key=lambda stage: stage.depth).window,
        "stages": tuple(found),
        # A SwinV2's attention, of cosines, hangs on where clusters stand (docs/method.md).
        "moves": not hasattr(attention, "logit_scale"),
    }
    blocks = tuple(block for blocks in stages for block in blocks)
    return Host(model=model, blocks=blocks, **{**fields, **more})


def blocks_of(part: nn.Module, kinds: Iterable[str]) -> tuple[nn.Module, ...]:
    """The blocks of a stage; none where it is something else than a stage of such blocks."""
    holder = dict(part.named_children()).get("blocks", part)
    blocks = tuple(_unwrapped(block, kinds) for block in holder.children())
    return blocks if blocks and kind_of(blocks[0], kinds) else ()


def _unwrapped(block: nn.Module, kinds: Iterable[str]) -> nn.Module:
    """The block inside of wrappers around it alone; itself where there is none."""
    found, children = block, [block]
    while len(children) == 1:
        (found,) = children
        if kind_of(found, kinds):
            return found
        children = list(found.children())
    return block


def project(attention: nn.Module, x: Tensor) -> Projections:
    """Queries, keys and values of one layer for the three."""
    q, k, v = apply_child(attention, x, "qkv").chunk(3, -1)
    return q, k, v


def table_of_offsets(attention: nn.Module, cells: Cells) -> Tensor:
    """The bias of a Swin's attention among the cells of a window."""
    table: Tensor = attribute(attention, "relative_position_bias_table")
    return window_bias(table, cells.window, cells.cells, cells.resized)


def mlp_of_offsets(attention: nn.Module, cells: Cells, name: str = "cpb_mlp") -> Tensor:
    """The bias of a SwinV2's attention among the cells of a window; `name` is its MLP's."""
    # By whose size offsets are divided: another window's where weights come from one.
    rows, columns = getattr(attention, "pretrained_window_size", (0, 0))
    trained = (rows, columns) if rows > 0 else cells.window
    return continuous_bias(attention.get_submodule(name), cells.window, cells.cells, trained)


def _the_same(block: nn.Module, tokens: Tensor) -> Tensor:
    return tokens
