"""Patch a Mask2Former: window token clustering in its Swin, and what that buys.

    python examples/mask2former.py
    python examples/mask2former.py --model DIR --alpha 4 --keep 0.35

DIR is a folder of transformers, such as `train_mask2former.py` writes, or a name on the hub.
Without one the model is made from the default configuration, with Swin-S: its speed is real, its
weights are random, so nothing is said of what it sees. What patching costs in quality takes more
than one image: `expedite sweep` measures it.
"""

import copy
from typing import Annotated, Any

import torch
import transformers
import typer
from comparing import costs
from running import console, run_script

import expedite
from expedite.loading import load_model
from expedite.patching import grid_of

SIDE = 512  # of images for the model with random weights


def load(name: str | None) -> tuple[Any, tuple[int, int]]:
    """A model by name or folder, or from the default configuration, and its image size."""
    if name is not None:
        loaded = load_model(f"hf:{name}")
        return loaded.model.float(), loaded.image_size
    console.print("random weights: speed and GFLOPs are real, and nothing is said of quality")
    library: Any = transformers
    model = library.Mask2FormerForUniversalSegmentation(library.Mask2FormerConfig())
    return model.eval(), (SIDE, SIDE)


def main(
    model: Annotated[str | None, typer.Option(help="A folder, or a name on the hub.")] = None,
    alpha: Annotated[int, typer.Option(help="Blocks at full resolution, of all stages.")] = 6,
    keep: Annotated[float, typer.Option(help="Share of a window's tokens to keep.")] = 0.35,
) -> None:
    """Load, patch and compare."""
    plain, size = load(model)
    images = torch.zeros(1, 3, *size)

    fast = expedite.patch(copy.deepcopy(plain), alpha=alpha, keep=keep)

    console.print(str(expedite.describe(fast, grid_of(fast, images))))
    console.print(costs(plain, fast, images))


if __name__ == "__main__":
    run_script(main)
