"""Make the demo checkpoint again: render scenes, train a small Segmenter on them, store it small.

    python examples/train_demo.py --scenes DIR --work DIR --out expedite/assets/demo-segmenter

The shipped one took 110 minutes, rendering included, on two busy cores of a Xeon with bfloat16
units, and has 93.4 % mean IoU on the 100 scenes of the test split.
"""

import torch
from lessons import Out, Render, Resume, Scenes, Work, render_splits
from running import run_script
from train_segmenter import Settings, Task, measure, print_ious, save, train

from expedite.data.datasets import open_folder
from expedite.scenes.scenes import CLASSES

COUNTS = {"train": 8000, "val": 100, "test": 100}
SETTINGS = Settings(width=128, layers=8, small_epochs=7, full_epochs=2)


def main(
    scenes: Scenes, work: Work, out: Out, render: Render = True, resume: Resume = False
) -> None:
    """Render, train, store as float16 and measure on scenes seen in no way before."""
    render_splits(scenes, COUNTS if render else {})
    folders = {split: open_folder(scenes, split) for split in COUNTS}
    task = Task(folders["train"], folders["val"], len(CLASSES), dataset="scenes")
    cpu = torch.device("cpu")
    model = train(task, SETTINGS, work, cpu, resume)
    written = save(SETTINGS, task.dataset, out, model.half(), SETTINGS.window)
    print_ious(measure(written, folders["test"], task.n_cls, cpu), CLASSES)


if __name__ == "__main__":
    run_script(main)
