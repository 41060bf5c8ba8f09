"""The architecture of a ViT-Adapter, and the published ones."""

from dataclasses import dataclass, replace
from typing import Literal

from expedite.errors import ExpediteError

PATCH_SIZE = 16
# The coarsest map of the pyramid is a 32nd of the image.
COARSEST = 32


@dataclass(frozen=True)
class AdapterConfig:
    """A ViT and the adapter beside it.

    Args:
        width: Of the tokens.
        heads: Of each block.
        layers: Blocks.
        adapter_heads: Of the adapter's attention.
        value_ratio: Channels that the adapter's attention samples, as a share of `width`.
        image_size: (height, width) in pixels at which the position embedding is stored.
        planes: Channels of the spatial prior's stem.
        interactions: Into how many equal groups the blocks fall.
        ffn_ratio: Channels inside the extractors' perceptrons, as a share of `width`; None leaves
            perceptrons out.
        extra_extractors: How many more there are after the last group.
        vit_features: Which tokens are added to the pyramid: those after each of the four groups, a
            map each; those after the last group, to all maps; or none.
        window: Side of the windows in which all blocks attend but the last of each quarter; None
            where all attend to everything.
        wide_window: Side of the windows of those others, a multiple of `window`; None where they
            attend to everything.
        beit: Whether the ViT is BEiT's: relative position biases and no position embedding; without
            windows, a class token, and images of `image_size` alone.
        layer_scale: Whether the branches of blocks are scaled channel by channel.
        drop_path_rate: Stochastic depth in training, rising to this in the last block.

    Raises:
        ExpediteError: There cannot be such a model.
    """

    width: int
    heads: int
    layers: int
    adapter_heads: int
    value_ratio: float = 1.0
    image_size: tuple[int, int] = (224, 224)
    planes: int = 64
    interactions: int = 4
    ffn_ratio: float | None = 0.25
    extra_extractors: int = 2
    vit_features: Literal["each", "last", "none"] = "each"
    window: int | None = None
    wide_window: int | None = None
    beit: bool = False
    layer_scale: bool = True
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        channels = int(self.width * self.value_ratio)
        _check_heads("heads", self.heads, self.width)
        _check_heads("adapter_heads", self.adapter_heads, channels)
        if self.interactions < 1 or self.layers % self.interactions:
            raise ExpediteError(
                f"{self.interactions} interactions were asked of a ViT-Adapter of {self.layers} "
                "blocks; as many blocks are due in each"
            )
        if self.vit_features == "each" and self.interactions != 4:
            raise ExpediteError(
                f"vit_features='each' was asked of a ViT-Adapter of {self.interactions} "
                "interactions; the four maps need four, 'last' and 'none' work with any"
            )
        if self.window is not None and self.layers % 4:
            raise ExpediteError(
                f"windows of {self.window} were asked of a ViT-Adapter of {self.layers} blocks; "
                "blocks that fall into quarters can have them"
            )
        _check_windows(self.window, self.wide_window, self.beit)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens at `image_size`."""
        return self.image_size[0] // PATCH_SIZE, self.image_size[1] // PATCH_SIZE

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the grid's: BEiT's class token, unless it attends in windows."""
        return int(self.beit and self.window is None)

    @property
    def taps(self) -> tuple[int, ...]:
        """Indices of the blocks whose outputs the adapter reads, the last of every group."""
        size = self.layers // self.interactions
        return tuple(range(size - 1, self.layers, size))

    def window_of(self, index: int) -> int | None:
        """Side of the windows in which a block attends, None where it attends to everything."""
        if self.window is None:
            return None
        return self.wide_window if (index + 1) % (self.layers // 4) == 0 else self.window


def _check_heads(name: str, heads: int, channels: int) -> None:
    if heads < 1 or channels < 1 or channels % heads:
        raise ExpediteError(
            f"{name}={heads} were asked of a ViT-Adapter for {channels} channels; a number that "
            "shares them evenly is due"
        )


def _check_windows(window: int | None, wide: int | None, beit: bool) -> None:
    # BEiT has a bias for every offset in a window; other ViTs were published with one size alone.
    is_due = beit and window is not None
    if (wide is not None) != is_due or (window and wide and wide % window):
        raise ExpediteError(
            f"windows of {window} and wide ones of {wide} were asked of a ViT-Adapter "
            f"{'with' if beit else 'without'} relative position biases; with them both or neither "
            "are due, the wide ones a multiple of the others, and without them no wide ones"
        )


def light(config: AdapterConfig) -> AdapterConfig:
    """One interaction without perceptron, and no tokens in the pyramid.

    The published configuration `upernet_deit_adapter_light_base`.

    Example:
        >>> light(SIZES["small"]).interactions
        1
    """
    return replace(config, interactions=1, ffn_ratio=None, extra_extractors=0, vit_features="none")


def for_detection(config: AdapterConfig) -> AdapterConfig:
    """The variant of the detection checkpoints: windows of 14, the last tokens for all maps.

    Example:
        >>> [for_detection(SIZES["base"]).window_of(index) for index in range(4)]
        [14, 14, None, 14]
        >>> for_detection(SIZES["beit-large"]).window_of(5)
        56
    """
    wide = 56 if config.beit else None
    return replace(config, window=14, wide_window=wide, vit_features="last")


def for_meta(config: AdapterConfig) -> AdapterConfig:
    """The same ViT with a `meta.META` beside it.

    Example:
        >>> for_meta(SIZES["base"]).value_ratio * 768
        72.0
    """
    return replace(config, adapter_heads=6, value_ratio=3 / 32, ffn_ratio=3 / 8, extra_extractors=0)


# Table 10 of the paper; stored positions and shares of values as in the published configurations.
SIZES = {
    "tiny": AdapterConfig(192, 3, 12, 6),
    "small": AdapterConfig(384, 6, 12, 6),
    "base": AdapterConfig(768, 12, 12, 12, value_ratio=0.5),
    "large": AdapterConfig(1024, 16, 24, 16, value_ratio=0.5, image_size=(384, 384)),
    "beit-large": AdapterConfig(
        1024, 16, 24, 16, value_ratio=0.5, image_size=(640, 640), beit=True
    ),
}
SIZES["base-light"] = light(SIZES["base"])
# The slides tell 324 M parameters and 445 GFLOPs under Semantic FPN, and no more. Of the variants
# that have them, this one leaves all of the paper's parts in place but the extractors it adds last.
SIZES["large-light"] = replace(SIZES["large"], value_ratio=0.25, extra_extractors=0)
