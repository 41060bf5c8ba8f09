"""Segment an image with a Segmenter, unpatched and patched: what it buys, and what it changes.

    python examples/segmenter.py
    python examples/segmenter.py --checkpoint checkpoint.pth --image street.jpg --alpha 10

Without a checkpoint it takes the small one of the demo, without an image a generated scene. A
published checkpoint needs its `variant.yml` beside it.
"""

from pathlib import Path
from typing import Annotated

import typer
from comparing import compare
from running import run_script

from expedite.evaluate.demo import demo_model
from expedite.loading import load_model


def main(
    checkpoint: Annotated[Path | None, typer.Option(help="With variant.yml beside it.")] = None,
    image: Annotated[Path | None, typer.Option(help="Any photograph.")] = None,
    alpha: Annotated[int, typer.Option(help="Blocks at full resolution.")] = 2,
    keep: Annotated[float, typer.Option(help="Share of the tokens to keep.")] = 0.35,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("segmenter.png"),
) -> None:
    """Load, patch, compare and draw."""
    loaded = load_model(f"segmenter:{checkpoint}") if checkpoint else demo_model()
    compare(loaded, image, alpha, keep, out)


if __name__ == "__main__":
    run_script(main)
