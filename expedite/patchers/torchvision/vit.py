"""torchvision's VisionTransformer, SWAG's too, whose head reads the class token alone."""

from functools import partial

from torch import nn

from expedite.patching.host import (
    Host,
    Mask,
    Readout,
    apply_child,
    attribute,
    class_names,
    inner,
    map_grid,
    runs_as,
)


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a torchvision VisionTransformer; None where it is something else."""
    if "torchvision.models.vision_transformer.VisionTransformer" not in class_names(module):
        return None
    if not runs_as(module, "torchvision.", "forward"):
        return None
    side = attribute(module, "image_size") // attribute(module, "patch_size")
    layers = module.get_submodule("encoder.layers")
    return Host(
        family="torchvision VisionTransformer",
        model=module,
        backbone=module,
        blocks=tuple(inner(block, "torchvision.") for block in layers.children()),
        prefix_tokens=1,
        embedding=module.get_submodule("conv_proj"),
        grid=map_grid,
        usual_grid=(side, side),
        any_size=False,
        first_norm=partial(apply_child, name="ln_1"),
        # A block takes no mask; its nn.MultiheadAttention adds one over keys, and stays fused.
        mask=Mask("key_padding_mask", position=3, over="keys", module=_attention),
        readout=_readout,
    )


def _attention(block: nn.Module) -> nn.Module:
    return block.get_submodule("self_attention")


def _readout(model: nn.Module) -> Readout:
    return "prefix"
