"""Segment with a ViT-Adapter, or with META, unpatched and patched: what it buys, what it changes.

    python examples/vit_adapter.py
    python examples/vit_adapter.py --checkpoint upernet_deit_adapter_base_512_160k_ade20k.pth.tar \
        --image street.jpg --alpha 4

A published checkpoint is known by the shapes of its weights. Without one, weights are random: then
GFLOPs and FPS say something, and agreement nothing.
"""

from pathlib import Path
from typing import Annotated

import typer
from comparing import compare
from running import run_script

from expedite.loading import load_model


def main(
    checkpoint: Annotated[Path | None, typer.Option(help="A published file, or one's own.")] = None,
    model: Annotated[str, typer.Option(help="Without one: which.")] = "tiny-semantic-fpn",
    image: Annotated[Path | None, typer.Option(help="Any photograph.")] = None,
    alpha: Annotated[int, typer.Option(help="Blocks at full resolution.")] = 4,
    keep: Annotated[float, typer.Option(help="Share of the tokens to keep.")] = 0.35,
    side: Annotated[int, typer.Option(help="Of images in pixels, a multiple of 32.")] = 512,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("vit_adapter.png"),
) -> None:
    """Load, patch, compare and draw."""
    loaded = load_model(f"vit_adapter:{checkpoint or model}", (side, side))
    compare(loaded, image, alpha, keep, out)


if __name__ == "__main__":
    run_script(main)
