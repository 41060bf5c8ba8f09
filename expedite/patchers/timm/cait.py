"""timm's CaiT: tokens of patches attend by talking heads; the class token joins behind them."""

from functools import partial

from torch import Tensor, nn

from expedite.patchers.timm.methods import methods
from expedite.patchers.timm.vit import grid_of_patches
from expedite.patching.heads import heads_of_one
from expedite.patching.host import (
    Attention,
    Host,
    apply_child,
    attribute,
    every_token,
    inner,
    kind_of,
    runs_as,
)


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a CaiT of timm; None where it is something else."""
    if kind_of(module, ["timm.models.cait.Cait"]) is None:
        return None
    if not runs_as(module, "timm.", "forward", "forward_features"):
        return None
    embedding = module.get_submodule("patch_embed")
    return Host(
        family="timm Cait",
        model=module,
        backbone=module,
        blocks=tuple(inner(block, "timm.") for block in module.get_submodule("blocks").children()),
        prefix_tokens=0,
        embedding=embedding,
        projection=embedding.get_submodule("proj"),
        grid=grid_of_patches,
        usual_grid=attribute(embedding, "grid_size"),
        any_size=False,
        first_norm=partial(apply_child, name="norm1"),
        mask=None,
        attention=Attention(_attention, _attend),
        readout=every_token,  # blocks of the class token attend to all of them
        methods=methods(),
        taps="read through forward_intermediates",
    )


def _attention(block: nn.Module) -> nn.Module:
    return block.get_submodule("attn")


def _attend(attention: nn.Module, mask: Tensor, x: Tensor) -> Tensor:
    """What talking heads put out under a mask (B, 1, 1, keys), which they take no argument for."""
    q, k, v = heads_of_one(attention, x)
    scores = attribute(attention, "scale") * q @ k.mT
    shares = (_talk(attention, scores, "proj_l") + mask).softmax(-1)
    shares = _talk(attention, shares, "proj_w")
    # Behind the softmax every token adds the bias of this mixing: a cluster does so for all of its.
    bias = attribute(attention.get_submodule("proj_w"), "bias")[:, None, None]
    shares = apply_child(attention, shares + bias * mask.expm1(), "attn_drop")
    out = (shares @ v).transpose(1, 2).flatten(2)  # (B, N, C)
    return apply_child(attention, apply_child(attention, out, "proj"), "proj_drop")


def _talk(attention: nn.Module, scores: Tensor, name: str) -> Tensor:
    """Scores (B, heads, queries, keys), mixed among heads."""
    return apply_child(attention, scores.movedim(1, -1), name).movedim(-1, 1)
