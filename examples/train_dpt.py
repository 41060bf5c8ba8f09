"""Train the demo's DPT: render scenes with exact depth, train a small DPT on them, store it small.

    python examples/train_dpt.py --scenes DIR --work DIR --out expedite/assets/demo-dpt

Most epochs see the images at half size, where a step costs a fifth; the position embedding is
interpolated between the two. The shipped one took 107 minutes on one core of a busy Xeon with
bfloat16 units, and has RMSE 3.10 m, AbsRel 0.139 and δ<1.25 82.5 % on the 100 scenes of the test
split.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from lessons import (
    Lesson,
    Out,
    Render,
    Resume,
    Scenes,
    Settings,
    Size,
    Work,
    pictures,
    read_image,
    read_truth,
    render_splits,
    resized,
    size_of,
    train,
)
from running import console, run_script
from torch import Tensor

from expedite.data.truths import NO_DEPTH
from expedite.evaluate.tasks.depth import Depth
from expedite.models.dpt import DPT, DPTConfig
from expedite.models.dpt_files import Variant, save_dpt

COUNTS = {"train": 6000, "val": 100, "test": 100}
# What the model sees: scenes at twice their size, for as many tokens as a real one has.
SIZE = (512, 768)
# Depth from 80 metres, where the output is 0, down to nothing.
CONFIG = DPTConfig(
    width=128,
    heads=2,
    layers=8,
    taps=(1, 3, 5, 7),
    features=(32, 48, 64, 64),
    image_size=SIZE,
    fused=32,
    scale=0.05,
    shift=1 / 80,
)
# The second round has a schedule of its own: after one epoch at full size there was more to learn.
ROUNDS = (
    Settings(sizes=(*(((256, 384),) * 5), SIZE), limits=(6000, 6000, 6000, 6000, 6000, 2400)),
    Settings(sizes=(SIZE,), limits=(3600,), lr=1.5e-3, other_lr=5e-4, seed=1),
)


def read_pair(path: Path) -> tuple[Tensor, Tensor]:
    """The image (3, H, W) from 0 to 1 and depth (H, W) in metres of a rendered scene."""
    return read_image(path), read_truth(path, "depth").float() / 1000


def depth_loss(model: DPT, batch: tuple[Tensor, Tensor], bf16: bool) -> Tensor:
    """Mean difference of the logarithms of depth (B, H, W), and half that of their gradients."""
    images, depth = batch
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        predicted = model(2 * images - 1)
    error = log_error(predicted.float(), depth)
    known = depth > 0
    steps = [
        (error.diff(dim=dim)[both].abs().mean(), both)
        for dim, both in (
            (1, known[:, 1:] & known[:, :-1]),
            (2, known[:, :, 1:] & known[:, :, :-1]),
        )
    ]
    return error[known].abs().mean() + 0.5 * sum(step for step, _ in steps)


def log_error(predicted: Tensor, depth: Tensor) -> Tensor:
    """Logarithm of predicted over true depth, (B, H, W); 0 where the truth is unknown."""
    predicted = F.interpolate(predicted[:, None], depth.shape[-2:], mode="bilinear")[:, 0]
    return torch.where(depth > 0, (predicted / depth.clamp_min(1e-3)).log(), 0)


@torch.inference_mode()
def measure(model: DPT, names: list[Path], size: Size) -> dict[str, float]:
    """RMSE in metres, AbsRel and δ<1.25 over the pixels of each image, averaged over images."""
    model.eval()
    task = Depth()
    meter = task.meter()
    for path in names:
        image, depth = read_pair(path)
        truth = depth.masked_fill(depth == 0, NO_DEPTH)
        meter.add(truth, task.read(model(2 * resized(image, size)[None] - 1), size_of(depth)))
    values = meter.values()
    return {metric.title: values[metric.name] for metric in task.metrics[: task.shown]}


LESSON = Lesson(read_pair, depth_loss, measure)


def main(
    scenes: Scenes, work: Work, out: Out, render: Render = True, resume: Resume = False
) -> None:
    """Render, train, store as float16 and measure on scenes seen in no way before."""
    render_splits(scenes, COUNTS if render else {})
    torch.manual_seed(0)
    model = DPT(CONFIG)
    for index, settings in enumerate(ROUNDS):
        model = train(LESSON, scenes, settings, model, work / str(index), resume)
    save_dpt(model.half(), Variant(CONFIG, SIZE, "scenes"), out)
    console.print(measure(model.float(), pictures(scenes, "test"), SIZE))


if __name__ == "__main__":
    run_script(main)
