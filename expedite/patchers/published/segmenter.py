"""The Segmenter of `expedite.models.segmenter`, whose decoder can run on clusters too."""

from functools import partial

from torch import nn

from expedite.patching.host import (
    Host,
    Mask,
    TokenHead,
    apply_child,
    every_token,
    inner,
    map_grid,
)


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a Segmenter; None where it is something else."""
    # By name first: looking at some other model must not import ours, which imports timm.
    if not any(kind.__name__ == "Segmenter" for kind in type(module).__mro__):
        return None
    from expedite.models.segmenter import MaskTransformer, Segmenter

    if not isinstance(module, Segmenter):
        return None
    encoder, decoder = module.encoder, module.decoder
    if isinstance(decoder, MaskTransformer):
        head = TokenHead(decoder.mask_norm, tuple(decoder.blocks), decoder.cls_emb.shape[1])
    else:
        head = TokenHead(decoder.get_submodule("head"))
    return Host(
        family="Segmenter",
        model=module,
        backbone=encoder,
        blocks=tuple(inner(block, "expedite.") for block in encoder.blocks),
        prefix_tokens=encoder.prefix_tokens,
        embedding=encoder.patch_embed,
        grid=map_grid,
        usual_grid=module.config.grid,
        any_size=True,
        first_norm=partial(apply_child, name="norm1"),
        mask=Mask("mask"),
        readout=every_token,
        head=head,
    )
