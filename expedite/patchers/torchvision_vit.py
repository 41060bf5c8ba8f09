"""torchvision's VisionTransformer, SWAG's too, whose head reads the class token alone."""

from torch import Tensor, nn

from expedite.patchers.host import Host, Mask, Readout, attribute, map_grid


def find_host(module: nn.Module) -> Host | None:
    """See `module` as a torchvision VisionTransformer; None where it is something else."""
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__}
    if "torchvision.models.vision_transformer.VisionTransformer" not in names:
        return None
    side = attribute(module, "image_size") // attribute(module, "patch_size")
    return Host(
        family="torchvision VisionTransformer",
        model=module,
        backbone=module,
        blocks=tuple(module.get_submodule("encoder.layers").children()),
        prefix_tokens=1,
        embedding=module.get_submodule("conv_proj"),
        grid=map_grid,
        usual_grid=(side, side),
        any_size=False,
        first_norm=_first_norm,
        # A block takes no mask; its nn.MultiheadAttention adds one over keys, and stays fused.
        mask=Mask("key_padding_mask", position=3, over="keys", module=_attention),
        readout=_readout,
    )


def _first_norm(block: nn.Module, tokens: Tensor) -> Tensor:
    normed: Tensor = block.get_submodule("ln_1")(tokens)
    return normed


def _attention(block: nn.Module) -> nn.Module:
    return block.get_submodule("self_attention")


def _readout(model: nn.Module) -> Readout:
    return "prefix"
