"""Estimate depth with a DPT, unpatched and patched: what it buys, and what it changes.

    python examples/dpt.py
    python examples/dpt.py --checkpoint dpt_hybrid_nyu-2ce69ec7.pt --image room.jpg --alpha 5

Without a checkpoint it takes the small one of the demo, without an image a generated scene. A
published checkpoint is known by how its name begins.
"""

from pathlib import Path
from typing import Annotated

import typer
from comparing import compare
from running import run_script

from expedite.evaluate.demo import demo_depth_model
from expedite.loading import load_model


def main(
    checkpoint: Annotated[Path | None, typer.Option(help="A published file, or one's own.")] = None,
    image: Annotated[Path | None, typer.Option(help="Any photograph.")] = None,
    alpha: Annotated[int, typer.Option(help="Blocks at full resolution.")] = 2,
    keep: Annotated[float, typer.Option(help="Share of the tokens to keep.")] = 0.35,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("dpt.png"),
) -> None:
    """Load, patch, compare and draw."""
    loaded = load_model(f"dpt:{checkpoint}") if checkpoint else demo_depth_model()
    compare(loaded, image, alpha, keep, out)


if __name__ == "__main__":
    run_script(main)
