"""The DPT of `expedite.models.dpt`, whose head reads blocks on the way."""

from functools import partial
from typing import Any

from torch import nn

from expedite.patching.host import (
    Host,
    Mask,
    Readout,
    Reads,
    apply_child,
    attribute,
    inner,
    map_grid,
)


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a DPT of the published layout; None where it is something else."""
    # By name first: looking at some other model must not import ours, which imports timm.
    if not any(kind.__name__ == "DPT" for kind in type(module).__mro__):
        return None
    from expedite.models.dpt import DPT

    if not isinstance(module, DPT):
        return None
    encoder = module.pretrained.model
    return Host(
        family="DPT",
        model=module,
        backbone=encoder,
        blocks=tuple(inner(block, "expedite.") for block in encoder.blocks),
        prefix_tokens=1,
        embedding=encoder.patch_embed.proj,
        grid=map_grid,
        usual_grid=encoder.grid,
        any_size=True,
        first_norm=partial(apply_child, name="norm1"),
        mask=Mask("mask"),
        readout=_readout,
        reads=_reads,
        taps=f"blocks {', '.join(str(1 + tap) for tap in encoder.taps)}, read by the head",
    )


def _readout(model: nn.Module) -> Readout:
    return "taps"


def _reads(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reads:
    from expedite.models.dpt import DPT

    encoder = module.pretrained.model if isinstance(module, DPT) else module
    return Reads(frozenset(attribute(encoder, "taps")), last=False)
