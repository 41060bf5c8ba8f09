"""The README's picture: clusters on a photograph, and its classes before and after.

    python -m benchmarks.picture --out docs/clusters.jpg

The photograph is scikit-learn's `china.jpg`, by danielbuechele (CC BY 2.0), the model a UperNet
that `examples/train_heads.py` trained on a frozen DINOv2-S and CamVid's streets.
"""

import io
import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from benchmarks.real_weights import fetch
from expedite.drawing.panels import draw_sheet
from expedite.evaluate.visualize import visualize
from expedite.loading import load_model
from expedite.plan import make_plan

_PHOTOGRAPH = "sklearn/datasets/images/china.jpg"
_CREDIT = "photograph by danielbuechele, CC BY 2.0"
_WIDTH = 1500


def main(
    out: Annotated[Path, typer.Option(help="Where the picture goes, a .jpg file.")],
    alpha: Annotated[int, typer.Option(help="Blocks at full resolution first.")] = 3,
    keep: Annotated[float, typer.Option(help="The share of the tokens kept after them.")] = 0.25,
) -> None:
    """Draw what a plan does to one photograph."""
    with zipfile.ZipFile(fetch("scikit-learn==1.9.1")) as wheel, wheel.open(_PHOTOGRAPH) as file:
        photograph = np.asarray(Image.open(file).convert("RGB"))
    loaded = load_model("examples/frozen_heads.py:upernet")
    views = visualize(loaded, make_plan(alpha, keep=keep), photograph)
    before, after, _ = views.answers
    title = f"DINOv2-S with a UperNet, α={alpha}, {keep:.0%} of the tokens · {_CREDIT}"
    sheet = draw_sheet([[views.panels[0][0], before, after]], title)
    picture = Image.open(io.BytesIO(sheet)).convert("RGB")
    picture.thumbnail((_WIDTH, _WIDTH))
    picture.save(out, quality=85)


if __name__ == "__main__":
    typer.run(main)
