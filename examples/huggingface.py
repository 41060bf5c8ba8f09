"""Patch a depth model of Hugging Face transformers and run it through a pipeline, as before.

    python examples/huggingface.py
    python examples/huggingface.py --model depth-anything/Depth-Anything-V2-Small-hf

Without a model it makes Depth Anything V2 Small from its configuration: its speed is real, its
weights are random, so nothing is said of what it sees.
"""

import copy
from pathlib import Path
from typing import Annotated, Any

import transformers
import typer
from comparing import costs
from PIL import Image
from running import console, run_script

import expedite
from expedite.evaluate.demo import unseen_scenes

# The published configuration of Depth Anything V2 Small.
BACKBONE = {
    "hidden_size": 384,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
    "out_indices": [3, 6, 9, 12],
    "reshape_hidden_states": False,
    "apply_layernorm": True,
}
NECK = {"reassemble_hidden_size": 384, "neck_hidden_sizes": [48, 96, 192, 384]}


def load(name: str | None) -> tuple[Any, Any]:
    """The model and its image processor, by name or folder, or from the configuration above."""
    library: Any = transformers
    if name is not None:
        model = library.AutoModelForDepthEstimation.from_pretrained(name)
        return model.eval(), library.AutoImageProcessor.from_pretrained(name)
    backbone = library.Dinov2Config(**BACKBONE)
    config = library.DepthAnythingConfig(backbone_config=backbone, **NECK, fusion_hidden_size=64)
    processor = library.DPTImageProcessor(
        size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    return library.DepthAnythingForDepthEstimation(config).eval(), processor


def main(
    model: Annotated[str | None, typer.Option(help="A folder, or a name on the hub.")] = None,
    image: Annotated[Path | None, typer.Option(help="Any photograph.")] = None,
    alpha: Annotated[int, typer.Option(help="Blocks at full resolution.")] = 4,
    keep: Annotated[float, typer.Option(help="Share of the tokens to keep.")] = 0.35,
    out: Annotated[Path, typer.Option(help="The depth map to write.")] = Path("depth.png"),
) -> None:
    """Load, patch, compare, run the pipeline."""
    plain, processor = load(model)
    photo = (
        Image.open(image).convert("RGB") if image else Image.fromarray(unseen_scenes(1)[0].image)
    )

    fast = expedite.patch(copy.deepcopy(plain), alpha=alpha, keep=keep)

    console.print(str(expedite.describe(fast)))
    pixels = processor(images=photo, return_tensors="pt")["pixel_values"]
    console.print(costs(plain, fast, pixels))
    pipeline = transformers.pipeline("depth-estimation", model=fast, image_processor=processor)
    depth = pipeline(photo)["depth"]
    depth.save(out)
    said = "as its checkpoint sees it" if model else "of random weights, which see nothing"
    console.print(f"{out} is the depth map of {photo.width}×{photo.height} pixels, {said}")


if __name__ == "__main__":
    run_script(main)
