"""SAM 3's image encoder, in transformers' detector, tracker and video models.

Its blocks take and return maps (B, H, W, C). Most attend in windows, some everywhere, and rotate
queries and keys by where tokens stand: in their window, or on a map as wide as one.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patchers.transformers.vit import (
    asked_for,
    check_version,
    refuse_attentions,
    requested_states,
    usual_grid,
)
from expedite.patching.heads import Projections
from expedite.patching.host import (
    Host,
    Reads,
    apply_child,
    attribute,
    every_token,
    inner,
    kind_of,
    map_grid,
    runs_as,
)
from expedite.patching.windows.window_blocks import (
    Layout,
    Placed,
    Standing,
    run_block,
)

_ENCODER = "transformers.models.sam3.modeling_sam3.Sam3ViTModel"


def find_host(module: nn.Module) -> Host | None:
    """See `module` as SAM 3's image encoder; None where it is something else."""
    if kind_of(module, (_ENCODER,)) is None or not runs_as(module, "transformers", "forward"):
        return None
    check_version()
    config = attribute(module, "config")
    height, width = usual_grid(config)
    if height != width:
        raise ExpediteError(
            f"a Sam3ViTModel for a map of {height}×{width} tokens was found, whose global blocks "
            "take positions of the transposed map; one for square images can be patched"
        )
    blocks = module.get_submodule("layers").children()
    side: int = config.window_size
    return Host(
        family="transformers Sam3ViTModel",
        model=module,
        backbone=module,
        blocks=tuple(inner(block, "transformers") for block in blocks),
        prefix_tokens=0,
        embedding=module.get_submodule("embeddings.patch_embeddings.projection"),
        grid=map_grid,
        usual_grid=(height, width),
        any_size=False,  # positions of global blocks are made for one size
        first_norm=partial(apply_child, name=_LAYOUT.first_norm),
        mask=None,
        readout=every_token,
        reads=_reads,
        taps="hidden states, where a call reads them",
        window=(side, side),
        run=partial(run_block, layout=_LAYOUT),
        asks_places=True,
        moves=True,  # positions go with clusters
    )


def _reads(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    if asked_for("output_attentions", model, args, kwargs):
        refuse_attentions(model)
    wanted = asked_for("output_hidden_states", model, args, kwargs)
    states = requested_states(wanted, attribute(model, "config").num_hidden_layers)
    return Reads(frozenset(state - 1 for state in states if state > 0))


def _project(attention: nn.Module, x: Tensor) -> Projections:
    q, k, v = (apply_child(attention, x, name) for name in ("q_proj", "k_proj", "v_proj"))
    return q, k, v


def _rotate(block: nn.Module, q: Tensor, k: Tensor, standing: Standing) -> Placed:
    """Queries and keys (B·n·m, heads, h·w, d) rotated by where clusters stand."""
    places = standing.of_each_image()  # (B·n·m, h·w, 2)
    if not standing.in_windows:
        # A global block sees the map as if it were as wide as a window.
        places = places * (attribute(block, "config").window_size / standing.cells.grid[1])
    across_and_down = places.flip(-1).flatten(0, 1)
    tables = block.get_submodule("rotary_emb")(q, across_and_down)  # each (1, B·n·m·h·w, d)
    cos, sin = (table.reshape(len(places), 1, *q.shape[2:]) for table in tables)
    q_turned, k_turned = (turned(x.float(), cos, sin).type_as(x) for x in (q, k))
    return q_turned, k_turned, None


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Every two neighbouring channels of x turned by an angle."""
    first, second = x[..., ::2], x[..., 1::2]
    return x * cos + torch.stack((-second, first), -1).flatten(-2) * sin


_LAYOUT = Layout(
    first_norm="layer_norm1",
    heads="num_attention_heads",
    attention="attention",
    project=_project,
    place=_rotate,
    dropout="attention_dropout",
    after_attention=("attention.o_proj",),
    after_windows=("layer_norm2", "mlp", "dropout"),
)
