"""The calibrations of DINOv2-S that a way of `benchmarks.accuracy` takes, one for each α.

    python -m benchmarks.calibrated CAMVID

They are of 24 training frames, which no instrument shows, and lie beside the weights.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.real_instruments import ALPHAS, DEVIATION, MEAN, STREET
from benchmarks.real_weights import cache, load_timm
from expedite.data.datasets import open_folder
from expedite.data.images import normalize, resize
from expedite.evaluate.calibrating import calibrate

CALIBRATED = cache() / "dinov2-s" / "calibrated-{alpha}.safetensors"
_IMAGES = 24


def main(camvid: Annotated[Path, typer.Argument(help="Holds images/train.")]) -> None:
    """Calibrate at every α of the instruments."""
    samples = open_folder(camvid, "train", None, _IMAGES)
    images = [normalize(resize(one.image, STREET), MEAN, DEVIATION) for one in samples]
    for alpha in ALPHAS:
        path = Path(str(CALIBRATED).format(alpha=alpha))
        calibrate(load_timm().eval(), torch.stack(images), alpha=alpha).save(path)
        typer.echo(str(path))


if __name__ == "__main__":
    typer.run(main)
