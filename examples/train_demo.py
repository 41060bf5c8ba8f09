"""Make the demo checkpoint again: render scenes, train a small Segmenter on them, store it small.

    python examples/train_demo.py --scenes DIR --work DIR --out expedite/assets/demo-segmenter

The shipped one took 110 minutes, rendering included, on two busy cores of a Xeon with bfloat16
units, and has 93.4 % mean IoU on the 100 scenes of the test split.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from train_segmenter import Settings, Task, measure, print_ious, save, train
from training import run_script

from expedite.evaluate.datasets import open_folder
from expedite.evaluate.scenes import CLASSES, write_scenes

SIZE = (256, 384)
COUNTS = {"train": 8000, "val": 100, "test": 100}
SETTINGS = Settings(width=128, layers=8, small_epochs=7, full_epochs=2)


def main(
    scenes: Annotated[Path, typer.Option(help="Where the scenes are, or go.")],
    work: Annotated[Path, typer.Option(help="Where training keeps its state.")],
    out: Annotated[Path, typer.Option(help="Where checkpoint.pth and variant.yml go.")],
    render: Annotated[bool, typer.Option(help="Render the scenes first.")] = True,
    resume: Annotated[bool, typer.Option(help="Go on from WORK/training.pth.")] = False,
) -> None:
    """Render, train, store as float16 and measure on scenes seen in no way before."""
    for split, count in COUNTS.items() if render else ():
        write_scenes(scenes, split, count, SIZE, workers=2)
    folders = {split: open_folder(scenes, split) for split in COUNTS}
    task = Task(folders["train"], folders["val"], len(CLASSES), dataset="scenes")
    cpu = torch.device("cpu")
    model = train(task, SETTINGS, work, cpu, resume)
    checkpoint = save(model.half(), SETTINGS, SETTINGS.window, task.dataset, out)
    print_ious(measure(checkpoint, folders["test"], cpu), CLASSES)


if __name__ == "__main__":
    run_script(main)
